"""DiffDFKD against plain loops; what holds for every method is in test_contract.py."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.data import CondensedSet
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.distillation import CRD
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.inversion import DiffDFKD, LatentCutMix, PipelineLoading, Prompt
from lightning_condkd.inversion.parts.latent_cutmix import partners_in_class
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from lightning_condkd.types import TaskSpec
from tests.conftest import ROOT
from tests.helpers import diffusion, toy
from tests.reference import diff_dfkd as reference

BATCH, STEPS, COUNT = 6, 6, 1000
NAMES = ("cat", "dog", "ant")
DOUBLE = PipelineLoading(dtype="float64")
SPEC = toy.spec(mean=(0.25,), std=(0.5,), class_names=NAMES)
BARS = reference.alpha_bars(0.00085, 0.012, COUNT)


@pytest.fixture(scope="module")
def networks() -> tuple[Observer, Observer]:
    teacher, student = (toy.observed(toy.network(name)).double() for name in ("teacher", "student 1"))
    return teacher.freeze(), student.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return diffusion.text_pipeline(tmp_path_factory.mktemp("tokens"))


def make(**arguments: Any) -> DiffDFKD:
    defaults = {"cadence": Cadence(STEPS, 2), "batch_size": BATCH, "loading": DOUBLE, "adversarial_weight": 0.0}
    if "pipeline" not in arguments:
        defaults["pipeline"] = diffusion.class_pipeline()
    return DiffDFKD(**{**defaults, **arguments})


def built(spec: TaskSpec = SPEC, **arguments: Any) -> DiffDFKD:
    method = make(**arguments)
    method.build(spec, seeded_generator(0, "build"))
    return method.double()


def draw_of(method: DiffDFKD, step: int, round_: int = 0) -> Draw:
    return Draw(0, method.cadence.unit(round_, step).counter)


def refuse(match: str, error: type[Exception] = ValueError, spec: TaskSpec = SPEC, **arguments: Any) -> None:
    with pytest.raises(error, match=match):
        built(spec, **arguments)


# --- the trajectory --------------------------------------------------------------------------------------------------


def _predictor(method: DiffDFKD, scale: float, given: Tensor, null: Tensor, argument: str) -> Any:
    """Classifier-free guidance, one image at a time."""

    def noise(latents: Tensor, time: int) -> Tensor:
        found = []
        for image in range(len(latents)):
            one, rows = latents[image : image + 1], slice(image, image + 1)
            with_class = method.sampler.unet(one, time, **{argument: given[rows]}).sample
            without = method.sampler.unet(one, time, **{argument: null[rows]}).sample
            found.append(without + scale * (with_class - without))
        return torch.cat(found)

    return noise


def _decode(method: DiffDFKD) -> Any:
    return lambda clean: method.sampler.vae.decode(clean / 0.5).sample


def _expected(method: DiffDFKD, networks: Any, noise: Any, weights: reference.Weights, **options: Any) -> Tensor:
    count, shape = method.cadence.synthesis_steps, method.latents.shape
    streams = [draw_of(method, step, options.get("round_", 0)) for step in range(count)]
    start = torch.randn(shape, generator=streams[0].generator("latents")).double()
    new = [torch.randn(shape, generator=one.generator("denoising noise")).double() for one in streams]
    options.pop("round_", None)
    bars = method.sampler.scheduler.alphas_cumprod.tolist()  # diffusers computes them in float32
    assert bars == pytest.approx(BARS, rel=1e-5)
    model = reference.Model(noise, _decode(method), bars, bars[0])
    return reference.sample(
        model, start, method.labels, networks, weights, reference.times(COUNT, count), new, **options
    )


def _labels_of(method: DiffDFKD, round_: int = 0) -> Tensor:
    method.start(method.cadence.unit(round_, 0), draw_of(method, 0, round_))
    return method.labels


def _compare(method: DiffDFKD, networks: Any, expected: Tensor, round_: int = 0) -> None:
    images, labels = synthesize(method, method.optimizers(), *networks, round=round_)
    assert torch.equal(labels, method.labels)
    assert float((expected > 0).logical_and(expected < 1).double().mean()) > 0.5  # else the clamp hides differences
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("label_in_prompt", [False, True])
def test_a_trajectory_follows_the_formulas(networks: Any, eta: float, label_in_prompt: bool) -> None:
    method = built(prompt=Prompt(label_in_prompt, guidance_scale=2.0), eta=eta)
    labels, null = _labels_of(method), torch.full((BATCH,), toy.CLASSES)
    noise = _predictor(method, 2.0, labels if label_in_prompt else null, null, "class_labels")
    _compare(method, networks, _expected(method, networks, noise, reference.Weights(), eta=eta))


def test_a_trajectory_follows_the_formulas_with_text_and_with_adversary(networks: Any, text: Any) -> None:
    """In a round after the warm-up, with another rate."""
    after_warmup = {"guidance_rate": 0.5, "adversarial_weight": 1.0, "cadence": Cadence(4, 2, warmup_rounds=1)}
    method = built(pipeline=text, prompt=Prompt(label_in_prompt=True), **after_warmup)
    tokens = [text.tokenizer(p, padding="max_length", max_length=24).input_ids for p in (*_prompts(), "")]
    table = text.text_encoder(torch.tensor(tokens)).last_hidden_state
    assert not torch.allclose(table[0], table[1])
    labels = _labels_of(method, 1)
    noise = _predictor(method, 3.0, table[labels], table[[-1] * BATCH], "encoder_hidden_states")
    weights = reference.Weights(adversarial=1.0, rate=0.5)
    expected = _expected(method, networks, noise, weights, round_=1)
    _compare(method, networks, expected, round_=1)
    without = _expected(method, networks, noise, reference.Weights(rate=0.5), round_=1)
    assert float((without - expected).abs().max()) > 1e-3  # so that the adversary counts


def _prompts() -> list[str]:
    return [f"A realistic photo of {name}" for name in NAMES]


@pytest.mark.parametrize(("steps", "stored"), [(6, [0, 1, 2, 3, 4]), (11, [1, 3, 5, 7, 9])])
def test_intermediate_images_are_those_that_the_teacher_was_asked_about(
    networks: Any, steps: int, stored: list[int]
) -> None:
    method = built(store_intermediate=True, cadence=Cadence(steps, 2))
    _labels_of(method)
    null, asked = torch.full((BATCH,), toy.CLASSES), list[Tensor]()
    noise = _predictor(method, 3.0, null, null, "class_labels")
    final = _expected(method, networks, noise, reference.Weights(), asked=asked)
    images, labels = synthesize(method, method.optimizers(), *networks, round=0)
    assert torch.equal(labels, method.labels.repeat(6))
    torch.testing.assert_close(images, torch.cat([final, *(asked[step] for step in stored)]), rtol=0, atol=1e-9)


def test_a_published_trajectory_stores_five_images() -> None:
    published = make(store_intermediate=True, cadence=Cadence(50, 1), batch_size=7)
    assert published.images_per_block() == 7 * 5
    assert make(cadence=Cadence(50, 1), batch_size=7).images_per_block() == 7


def test_the_bank_and_a_memory_of_images_have_room_for_intermediate_ones() -> None:
    inversion = make(store_intermediate=True, cadence=Cadence(5, 2, warmup_rounds=1), loading=PipelineLoading())
    run = toy.fit(toy.condkd(inversion, distillation=CRD(negatives=4, size=4)), max_epochs=2)
    assert len(run.bank) == 2 * 5 * BATCH
    assert run.model.distillation.memory.teacher.shape[0] == len(toy.condensed_set()) + len(run.bank)


class Unsaid(DiffDFKD):
    """Stores more than it says."""

    def images_per_block(self) -> int:
        return self.batch_size if hasattr(self, "intermediate") else super().images_per_block()


def test_a_method_that_stores_another_number_than_it_says_is_refused(networks: Any) -> None:
    method = Unsaid(pipeline=diffusion.class_pipeline(), loading=DOUBLE, cadence=Cadence(6, 1), store_intermediate=True)
    method.build(SPEC, seeded_generator(0, "build"))
    method.double()
    with pytest.raises(
        ValueError, match=r"Unsaid: expected 64 images of a block, as .*images_per_block\(\) says, got 384"
    ):
        synthesize(method, method.optimizers(), *networks, round=0)


def test_the_gradient_may_pass_by_the_unet(networks: Any) -> None:
    method = built(through_unet=False)
    _labels_of(method)
    null = torch.full((BATCH,), toy.CLASSES)
    noise = _predictor(method, 1.0, null, null, "class_labels")
    short, whole = (_expected(method, networks, noise, reference.Weights(), through_unet=x) for x in (False, True))
    _compare(method, networks, short)
    assert float((short - whole).abs().max()) > 1e-3


@pytest.mark.parametrize("labels", ["balanced", "one_class"])
def test_boxes_of_latents_go_to_images_of_the_same_class(networks: Any, labels: Any) -> None:
    method = built(cutmix=LatentCutMix(), labels=labels)
    classes, null = _labels_of(method).clone(), torch.full((BATCH,), toy.CLASSES)
    assert len(classes.unique()) == (toy.CLASSES if labels == "balanced" else 1)
    mixed = []

    def mix(step: int, latents: Tensor) -> Tensor:
        if step + 1 == STEPS:
            return latents
        generator = draw_of(method, step).generator("latent CutMix")
        kept = float(torch.rand((), generator=generator, dtype=torch.float64))
        center = tuple(torch.rand(2, generator=generator, dtype=torch.float64).tolist())
        partners = partners_in_class(classes, generator)
        assert torch.equal(classes[partners], classes)
        mixed.append(step)
        return reference.paste(latents, partners.tolist(), reference.box(kept, center, (4, 4)))  # type: ignore[arg-type]

    noise = _predictor(method, 1.0, null, null, "class_labels")
    expected = _expected(method, networks, noise, reference.Weights(), mix=mix)
    assert mixed == [0, 1, 2, 3, 4]  # 6 // 5 is 1; the last step is never mixed
    _compare(method, networks, expected)
    plain = _expected(method, networks, noise, reference.Weights())
    assert float((plain - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("step", range(STEPS - 1))
def test_full_noise_is_a_step_of_ddpm(step: int) -> None:
    from diffusers import DDPMScheduler

    sampler, ddpm = built().sampler, DDPMScheduler.from_config(diffusion.scheduler().config)
    ddpm.set_timesteps(STEPS)
    assert ddpm.timesteps.tolist() == sampler.timesteps
    latents, prediction = torch.randn(2, 2, 4, 4, 4, generator=seeded_generator(0, "latents")).double()
    noise = torch.randn(latents.shape, generator=seeded_generator(1, "noise"), dtype=torch.float64)
    theirs = ddpm.step(prediction, sampler.timesteps[step], latents, generator=seeded_generator(1, "noise"))
    ours = sampler.denoise(latents, prediction, step, noise)
    torch.testing.assert_close(ours.previous, theirs.prev_sample, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.clean, theirs.pred_original_sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_models_that_predict_something_else_than_noise(kind: str) -> None:
    sampler = built(pipeline=diffusion.class_pipeline(prediction_type=kind)).sampler
    latents, prediction = torch.randn(2, 2, 4, 4, 4, generator=seeded_generator(0, "latents")).double()
    bar = BARS[sampler.timesteps[2]]
    expected = prediction if kind == "sample" else bar**0.5 * latents - (1 - bar) ** 0.5 * prediction
    torch.testing.assert_close(sampler.denoise(latents, prediction, 2).clean, expected, atol=1e-5, rtol=1e-5)


def test_latents_are_not_clipped_and_any_scheduler_is_replaced() -> None:
    from diffusers import DDPMScheduler, PNDMScheduler

    latents = 5 * torch.randn(2, 4, 4, 4, generator=seeded_generator(0, "latents")).double()
    found = []
    for kind in (DDPMScheduler, PNDMScheduler):
        names = {"beta_schedule", "beta_start", "beta_end", "steps_offset"}
        pipeline = diffusion.class_pipeline()
        pipeline.scheduler = kind(**{name: diffusion.SCHEDULE[name] for name in names})
        assert kind is PNDMScheduler or pipeline.scheduler.config.clip_sample
        sampler = built(pipeline=pipeline).sampler
        assert sampler.timesteps == reference.times(COUNT, STEPS)
        found.append(sampler.denoise(latents, 0 * latents, 0).clean)
    assert float(found[0].abs().max()) > 1
    assert torch.equal(*found)


def test_published_timesteps() -> None:
    sampler = built(cadence=Cadence(50, 2)).sampler
    assert (sampler.timesteps[:2], sampler.timesteps[-2:], len(sampler.timesteps)) == ([981, 961], [21, 1], 50)


def test_the_step_of_an_image_does_not_depend_on_the_batch(networks: Any) -> None:
    gradients = []
    for size in (12, 6, 1):
        method = built(batch_size=size, bn_weight=0.0)
        unit = method.cadence.unit(0, 0)
        with torch.no_grad():
            noise = torch.randn(12, 4, 4, 4, generator=seeded_generator(0, "latents"))
            method.latents.copy_(noise[:size])
            method.labels.copy_(torch.arange(12)[:size] % toy.CLASSES)
        found = method(*networks, unit, Draw(0, 0))
        found.terms.total().backward()
        gradients.append(method.latents.grad)
        mean = torch.nn.functional.cross_entropy(found.output.logits, method.labels)
        torch.testing.assert_close(found.terms.values["class"], mean)  # what is logged
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0][: len(gradient)])
        assert bool(gradient.any())


# --- CutMix and prompts ----------------------------------------------------------------------------------------------


def test_when_latents_are_mixed() -> None:
    due = {steps: [s + 1 for s in range(steps) if LatentCutMix().due(s, steps)] for steps in (50, 70, 12)}
    assert due == {50: [10, 20, 30, 40], 70: [14, 28, 42, 56], 12: [2, 4, 6, 8, 10]}


def test_the_two_laws_of_the_box() -> None:
    """Shares of the mean and the variance: 1/12 for the uniform law, log(3)/8 for the nested one."""
    for law, variance in (("uniform", 1 / 12), ("nested", 0.1373)):
        mixing = LatentCutMix(law)  # type: ignore[arg-type]
        shares = torch.tensor([mixing._kept(seeded_generator(0, "law", n)) for n in range(4000)])
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(shares.var()) == pytest.approx(variance, abs=0.005)


def test_partners_are_a_permutation_within_classes() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 2, 0])
    found = [partners_in_class(labels, seeded_generator(0, "partners", n)) for n in range(50)]
    assert all(torch.equal(labels[one], labels) and one.unique().numel() == 7 for one in found)
    assert len({tuple(one.tolist()) for one in found}) > 20


def test_prompts_name_the_classes_of_the_condensed_set(tmp_path: Path) -> None:
    method = make(pipeline=diffusion.text_pipeline(tmp_path), prompt=Prompt(label_in_prompt=True), cadence=toy.CADENCE)
    condensed = toy.condensed_set()
    info = CondensedInfo(toy.CLASSES, NAMES)
    run = toy.fit(
        toy.condkd(method), condensed=CondensedSet(condensed.images, condensed.labels, info=info), max_epochs=2
    )
    assert run.model.spec is not None
    assert run.model.spec.class_names == NAMES
    table = method.sampler.conditions.table
    assert table.shape == (4, 24, 16)
    assert len(table.flatten(1).unique(dim=0)) == 4


def test_names_are_needed_where_prompts_name_classes(text: Any) -> None:
    unnamed = SPEC._replace(class_names=())
    asked = {"pipeline": text, "prompt": Prompt(label_in_prompt=True)}
    refuse("expected 3 names of classes, got none: give prompt.class_names", spec=unnamed, **asked)
    refuse("expected 3 names of classes, got cat, dog", pipeline=text, prompt=Prompt(True, class_names=("cat", "dog")))
    own = built(unnamed, pipeline=text, prompt=Prompt(True, class_names=NAMES))
    assert torch.equal(own.sampler.conditions.table, built(**asked).sampler.conditions.table)
    with pytest.raises(ValueError, match=r"labeled: expected a prompt with \{label\}"):
        Prompt(labeled="A realistic photo")


def test_conditions_of_models_without_text() -> None:
    labelled = Prompt(label_in_prompt=True)
    refuse("num_class_embeds 4, the task's classes and the null class, got 3", pipeline=diffusion.class_pipeline(3))
    refuse("got 3: train it", pipeline=diffusion.class_pipeline(3), prompt=labelled)
    refuse("got 8", pipeline=diffusion.class_pipeline(8), prompt=labelled)
    refuse("the U-Net is unconditional", pipeline=diffusion.class_pipeline(None), prompt=labelled)
    alone = built(pipeline=diffusion.class_pipeline(3), prompt=Prompt(True, guidance_scale=1.0))
    given = alone.sampler.conditions.given(torch.tensor([2, 0]))
    assert given["class_labels"].tolist() == [2, 0]
    assert not built(pipeline=diffusion.class_pipeline(None)).sampler.conditions.given(torch.tensor([1]))


def test_labels_are_balanced_or_one_class_a_block_in_turn() -> None:
    assert _labels_of(built()).bincount().tolist() == [2, 2, 2]
    method = built(labels="one_class")
    assert [_labels_of(method, round_).unique().tolist() for round_ in range(4)] == [[0], [1], [2], [0]]


# --- files -----------------------------------------------------------------------------------------------------------


def _images(method: DiffDFKD) -> Tensor:
    unit = method.cadence.unit(0, 0)
    method.start(unit, Draw(0, 0))
    return method.render(unit, Draw(0, 0)).images.detach()


def test_a_folder_gives_what_was_saved_in_it(tmp_path: Path, text: Any) -> None:
    text.save_pretrained(tmp_path / "text")
    classes = diffusion.class_pipeline()
    for pipeline, folder in ((text, tmp_path / "text"), (classes, diffusion.save(classes, tmp_path / "classes"))):
        torch.testing.assert_close(_images(built(pipeline=str(folder))), _images(built(pipeline=pipeline)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_latents_and_losses_in_float32(tmp_path: Path, dtype: Any, text: Any) -> None:
    folder = tmp_path / "pipeline"
    text.save_pretrained(folder, variant="fp16")
    method = make(pipeline=folder, loading=PipelineLoading(dtype, variant="fp16"))
    method.build(SPEC, seeded_generator(0, "build"))
    assert {p.dtype for p in (*method.sampler.unet.parameters(), *method.sampler.vae.parameters())} == {
        getattr(torch, dtype)
    }
    method.start(method.cadence.unit(0, 0), Draw(0, 0))
    teacher = toy.observed(toy.network("teacher")).freeze()
    found = method(teacher, teacher, method.cadence.unit(0, 0), Draw(0, 0))
    found.terms.total().backward()
    assert method.latents.grad is not None
    kinds = {found.synthetic.images.dtype, found.output.logits.dtype, found.terms.total().dtype, method.latents.dtype}
    assert kinds == {torch.float32}
    assert bool(method.latents.grad.isfinite().all())
    torch.testing.assert_close(
        _images(method).double(), _images(built(pipeline=folder, loading=_variant())), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precisions_of_the_trainer(precision: Any) -> None:
    method = make(cadence=Cadence(2, 2), loading=PipelineLoading())
    run = toy.fit(toy.condkd(method), max_epochs=1, precision=precision)
    assert bool(method.collect().images.isfinite().all())
    assert {p.dtype for p in method.sampler.unet.parameters()} == {torch.float32}
    assert len(run.bank.images.flatten(1).unique(dim=0)) == BATCH


def _variant() -> PipelineLoading:
    return PipelineLoading("float64", variant="fp16")


def test_checkpointing_and_slicing_change_memory_alone(networks: Any) -> None:
    gradients = []
    for settings in ({}, {"gradient_checkpointing": True, "vae_slicing": True}):
        method = built(loading=PipelineLoading("float64", **settings))
        assert method.sampler.unet.is_gradient_checkpointing is bool(settings)
        assert method.sampler.vae.use_slicing is bool(settings)
        method.start(method.cadence.unit(0, 0), Draw(0, 0))
        method(*networks, method.cadence.unit(0, 0), Draw(0, 0)).terms.total().backward()
        gradients.append(method.latents.grad)
    torch.testing.assert_close(*gradients)


def test_images_of_another_size_are_resized() -> None:
    method = built(loading=PipelineLoading("float64", sample_size=16))
    assert method.latents.shape == (BATCH, 4, 16, 16)
    assert _images(method).shape == (BATCH, *toy.SHAPE)
    clean = torch.randn(2, 4, 16, 16, generator=seeded_generator(0, "clean")).double()
    large = reference.pixels(method.sampler.vae.decode(clean / 0.5).sample)
    expected = torch.nn.functional.interpolate(large, size=(8, 8), mode="bicubic", antialias=True)
    assert torch.equal(method.sampler.decode(clean, (8, 8)), expected)
    assert large.shape[2:] == (32, 32)


# --- what stays out of the run ---------------------------------------------------------------------------------------


def test_the_diffusion_model_is_frozen_and_in_no_checkpoint() -> None:
    pipeline = diffusion.class_pipeline()
    method = make(pipeline=pipeline, cadence=Cadence(2, 2), loading=PipelineLoading())
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    run = toy.fit(toy.condkd(method), max_epochs=2)
    assert toy.same(before, dict(pipeline.unet.state_dict()))
    assert not any(
        p.requires_grad or p.grad is not None for p in (*pipeline.unet.parameters(), *pipeline.vae.parameters())
    )
    assert [name for name, _ in method.named_parameters()] == ["latents"]
    names = {name for name in run.model.state_dict() if name.startswith("inversion.")}
    assert names == {f"inversion.{n}" for n in ("latents", "labels", "fingerprint", *_KEPT)}


_KEPT = ("kept_images", "kept_labels", "kept_loss", "images_sampled")


def test_a_run_goes_on_with_its_own_diffusion_model_alone(tmp_path: Path) -> None:
    run = toy.fit(toy.condkd(make(cadence=Cadence(2, 2), loading=PipelineLoading())), max_epochs=1)
    run.trainer.save_checkpoint(tmp_path / "run.ckpt")
    for name, error in (("unet", None), ("another", "the checkpoint was made with another diffusion model")):
        pipeline = diffusion.class_pipeline()
        pipeline.unet = diffusion.class_unet(name=name)
        model = toy.condkd(make(pipeline=pipeline, cadence=Cadence(2, 2), loading=PipelineLoading()))
        data = toy.CondensedDataModule(toy.condensed_set(), batch_size=8)
        trainer = toy.silent_trainer(max_epochs=2)
        if error is None:
            trainer.fit(model, data, ckpt_path=tmp_path / "run.ckpt")
        else:
            with pytest.raises(ValueError, match=error):
                trainer.fit(model, data, ckpt_path=tmp_path / "run.ckpt")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_a_missing_package_is_named_with_its_cure(
    package: str, text: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text.save_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{package}: pip install "lightning-condkd\[diffusion\]"'):
        built(pipeline=tmp_path)


@pytest.mark.parametrize("source", ["nobody/nothing", "/nowhere/at/all"])
def test_a_pipeline_that_is_not_there_is_refused_with_what_to_download(source: str) -> None:
    refuse(
        f"(?s)found no diffusers pipeline at '{source}'.*Give a folder with model_index.json",
        FileNotFoundError,
        pipeline=source,
    )


def _without(name: str) -> Any:
    return SimpleNamespace(**{**vars(diffusion.class_pipeline()), name: None})


def _unet(**changes: Any) -> Any:
    return SimpleNamespace(**{**vars(diffusion.class_pipeline()), "unet": diffusion.class_unet(**changes)})


def _flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return SimpleNamespace(**{**vars(diffusion.class_pipeline()), "scheduler": FlowMatchEulerDiscreteScheduler()})


REFUSED: dict[str, tuple[Any, str]] = {
    "no VAE": (lambda: {"pipeline": _without("vae")}, "SimpleNamespace has no vae: give a latent diffusion pipeline"),
    "inpainting": (
        lambda: {"pipeline": _unet(in_channels=9)},
        "from 4 channels, those of the VAE's latents.*got 9 to 4",
    ),
    "learned variance": (lambda: {"pipeline": _unet(out_channels=8)}, "got 4 to 8"),
    "flow": (lambda: {"pipeline": _flow()}, "has no betas: expected a diffusion model's noise schedule"),
    "colors": (lambda: {"pipeline": diffusion.class_pipeline(channels=3)}, "the VAE makes images of 3 channels"),
    "too many steps": (lambda: {"cadence": Cadence(1001, 1)}, "trained with 1000 steps, got 1001: take fewer"),
    "one step": (lambda: {"cadence": Cadence(1, 1)}, "expected at least 2 synthesis_steps"),
    "too few steps to mix": (
        lambda: {"cadence": Cadence(4, 1), "cutmix": LatentCutMix()},
        "at least 5 synthesis_steps",
    ),
    "too few steps to store": (
        lambda: {"cadence": Cadence(4, 1), "store_intermediate": True},
        "at least 5 synthesis_steps.*cutmix or store_intermediate act at each fifth, got 4",
    ),
    "too few images to mix": (lambda: {"batch_size": 5, "cutmix": LatentCutMix()}, "two images of every class.*got 5 "),
    "labels": (lambda: {"labels": "uniform"}, "expected labels 'balanced' or 'one_class', got 'uniform'"),
    "eta": (lambda: {"eta": 1.5}, r"expected eta in \[0, 1\], got 1.5"),
    "rate": (lambda: {"guidance_rate": -1.0}, "expected a guidance_rate of at least 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sampled_is_refused(case: str) -> None:
    arguments, match = REFUSED[case]
    refuse(match, **arguments())


def test_text_without_an_encoder_and_settings_are_refused(text: Any) -> None:
    parts = {"unet": text.unet, "vae": text.vae, "scheduler": text.scheduler}
    refuse("the pipeline has no tokenizer or text_encoder", pipeline=SimpleNamespace(**parts))
    refuse("the teacher has no BatchNorm layer", spec=SPEC._replace(bn_channels=()))
    with pytest.raises(ValueError, match="expected dtype 'float32'"):
        PipelineLoading("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive sample_size"):
        PipelineLoading(sample_size=0)
    with pytest.raises(ValueError, match="expected law 'uniform' or 'nested'"):
        LatentCutMix("beta")  # type: ignore[arg-type]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline

    DDPMPipeline(diffusion.class_unet(), diffusion.scheduler()).save_pretrained(tmp_path)
    refuse("is DDPMPipeline without vae: expected a latent diffusion model", pipeline=tmp_path)


# --- what it is for --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reduced run of the example."""
    folder = tmp_path_factory.mktemp("digits") / "pipeline"
    example = ROOT / "examples" / "digits_diffusion.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(example), f"--output={folder}", "--vae-steps=60", "--unet-steps=100"])
        runpy.run_path(str(example), run_name="__main__")
    return folder


def _class_accuracy(pipeline: Path, rate: float, judge: Observer) -> float:
    teacher = Observer(DigitsNet(width=32), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").freeze()
    method = DiffDFKD(pipeline=pipeline, cadence=Cadence(10, 0), batch_size=60, guidance_rate=rate)
    method.build(TaskSpec((1, 8, 8), 10, 64, teacher.bn_channels), seeded_generator(0, "build"))
    images, labels = synthesize(method, method.optimizers(), teacher, teacher, round=0)
    assert labels is not None
    return float((judge(images).logits.argmax(1) == labels).float().mean())


def _judge() -> Observer:
    """A network of another shape, trained on the digits for a few seconds."""
    source = load_digits_split(train=True)
    images, labels = torch.as_tensor(source.images).float() / 255, source.labels
    judge = Observer(DigitsNet(width=16), (0.3059,), (0.3754,))
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    for step in range(150):
        rows = torch.randint(len(labels), (64,), generator=seeded_generator(0, "judge", step))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(judge(images[rows]).logits, labels[rows]).backward()
        optimizer.step()
    return judge.freeze()


def test_guidance_alone_gives_images_their_class(digits_pipeline: Path) -> None:
    """The model is asked for its null class; who judges is not who guides."""
    judge = _judge()
    guided, unguided = (_class_accuracy(digits_pipeline, rate, judge) for rate in (1.0, 0.0))
    assert guided > 0.25 > unguided, (guided, unguided)  # seen: 0.33 to 0.45, and 0.08; chance is 0.1
