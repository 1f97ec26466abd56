.PHONY: test lint docs linkcheck render wheel

export OMP_WAIT_POLICY = PASSIVE

test:
	pytest -n 2

lint:
	ruff check .
	ruff format --check .
	mypy

docs:
	sphinx-build -W --keep-going -b html docs docs/_build/html

linkcheck:
	sphinx-build -b linkcheck docs docs/_build/linkcheck

render:
	python benchmarks/render.py

wheel:
	python -m pip wheel --no-deps --wheel-dir dist .
