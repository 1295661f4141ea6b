"""The two CNNs of the paper (arXiv:2406.11872), which the Auto classes know once `hf_worm` is imported.

Checkpoints carry the code of their model, so that they load where `hf_worm` is not installed too:
`AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)`.
"""

from transformers import AutoConfig, AutoModelForImageClassification

from .resnet import CifarResNetConfig, CifarResNetForImageClassification
from .vgg import VggBnConfig, VggBnForImageClassification

__all__ = ["CifarResNetConfig", "CifarResNetForImageClassification", "VggBnConfig", "VggBnForImageClassification"]

for _config, _model in (
    (CifarResNetConfig, CifarResNetForImageClassification),
    (VggBnConfig, VggBnForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)
    _config.register_for_auto_class()  # type: ignore[no-untyped-call]
    _model.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]
