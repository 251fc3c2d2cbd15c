"""Fine-tuning a small part of a model, and what it costs. Chapter: course/05_adapters.ipynb."""

from companion.adapters.memory import MemoryReport, training_memory

__all__ = ["MemoryReport", "training_memory"]
