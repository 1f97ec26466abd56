"""Parts of distillation losses."""
