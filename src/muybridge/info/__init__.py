"""What a model costs, without its weights: parameters, multiply-adds, memory in training.

info = recipe_info("evl_vitb16_k400_8f")
info.trainable, info.multiply_adds            # 33183376, 151.3e9
print(describe(info))                         # a table, with what others state of it
"""

from muybridge.info.counting import TrainingMemory, multiply_adds, parameters_read, training_memory
from muybridge.info.model import Info, model_info, recipe_info, setting_info
from muybridge.info.table import Comparison, compare, describe, to_dict

__all__ = [
    "Comparison",
    "Info",
    "TrainingMemory",
    "compare",
    "describe",
    "model_info",
    "multiply_adds",
    "parameters_read",
    "recipe_info",
    "setting_info",
    "to_dict",
    "training_memory",
]
