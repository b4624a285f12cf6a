"""Which networks there are: one table, found by grep, no import side effects."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Mapping
from typing import Any, cast

from quicknet.core.card import ModelRecord
from quicknet.core.errors import ConfigError, nearest
from quicknet.core.settings import from_mapping
from quicknet.models.config import NetworkConfig
from quicknet.models.network import Network

# name → module of its family, whose NETWORK is the class, and the variant's config in it
MODELS = {
    "quicknet": "quicknet.models.quicknet:quicknet",
    "quicknet_s": "quicknet.models.quicknet:quicknet_s",
    "quicknet_xs": "quicknet.models.quicknet:quicknet_xs",
    "darknet": "quicknet.models.zoo.darknet:darknet",
    "darknet_32": "quicknet.models.zoo.darknet:darknet_32",
    "wide_resnet_16_8": "quicknet.models.zoo.wide_resnet:wide_resnet_16_8",
    "wide_resnet_28_10": "quicknet.models.zoo.wide_resnet:wide_resnet_28_10",
    "speedy": "quicknet.models.zoo.speedy:speedy",
    "speedy_s": "quicknet.models.zoo.speedy:speedy_s",
    "resnet_20": "quicknet.models.zoo.resnet:resnet_20",
    "resnet_56": "quicknet.models.zoo.resnet:resnet_56",
    "resnet_50": "quicknet.models.zoo.resnet:resnet_50",
    "mobilenet_v1": "quicknet.models.zoo.mobilenet_v1:mobilenet_v1",
    "mobilenet_v2_x1": "quicknet.models.zoo.mobilenet_v2:mobilenet_v2_x1",
    "mobilenet_v2_x05": "quicknet.models.zoo.mobilenet_v2:mobilenet_v2_x05",
    "shufflenet_v2_x1": "quicknet.models.zoo.shufflenet_v2:shufflenet_v2_x1",
    "shufflenet_v2_x05": "quicknet.models.zoo.shufflenet_v2:shufflenet_v2_x05",
    "squeezenet": "quicknet.models.zoo.squeezenet:squeezenet",
    "vgg_16": "quicknet.models.zoo.vgg:vgg_16",
    "all_cnn_c": "quicknet.models.zoo.all_cnn:all_cnn_c",
    "nin": "quicknet.models.zoo.nin:nin",
    "lenet_5": "quicknet.models.zoo.lenet:lenet_5",
    "alexnet": "quicknet.models.zoo.alexnet:alexnet",
    "alexnet_cifar": "quicknet.models.zoo.cuda_convnet:alexnet_cifar",
    "densenet_bc_100_12": "quicknet.models.zoo.densenet:densenet_bc_100_12",
    "condensenet_50": "quicknet.models.zoo.condensenet:condensenet_50",
    "condensenet_122": "quicknet.models.zoo.condensenet:condensenet_122",
    "googlenet": "quicknet.models.zoo.googlenet:googlenet",
    "xception": "quicknet.models.zoo.xception:xception",
    "repvgg_a0": "quicknet.models.zoo.repvgg:repvgg_a0",
    "repvgg_a0_folded": "quicknet.models.zoo.repvgg:repvgg_a0_folded",
    "maxout": "quicknet.models.zoo.maxout:maxout",
    "factorized": "quicknet.models.zoo.factorized:factorized",
    "fractional": "quicknet.models.zoo.fractional:fractional",
    "fractional_s": "quicknet.models.zoo.fractional:fractional_s",
}


def list_models(pattern: str = "*") -> list[str]:
    """Return the registered names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def base_config(name: str) -> NetworkConfig:
    """Return a variant's config. Raises ConfigError naming the nearest known name."""
    if name not in MODELS:
        raise ConfigError(f"no model is called {name!r}{nearest(name, MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    return cast(NetworkConfig, getattr(importlib.import_module(module), attribute))


def create_model(name: str, **overrides: Any) -> Network:
    """Return a freshly initialized network of the registry, its config changed by `overrides`.

    Raises ConfigError for an unknown name or setting.
    """
    return _build(name, overrides)


def _build(name: str, overrides: Mapping[str, Any]) -> Network:
    base = base_config(name)
    config = from_mapping(type(base), {**base.to_dict(), **overrides}, "model settings")
    family = importlib.import_module(MODELS[name].partition(":")[0])
    return cast("Network", family.NETWORK(config))


def model_record(name: str, model: Network) -> ModelRecord:
    """Return what a card says of a network: enough to rebuild it."""
    family = type(model).__module__.rpartition(".")[2]
    return ModelRecord(family=family, name=name, config=model.config.to_dict())


def model_from_record(record: ModelRecord) -> Network:
    """Rebuild a network from its card and from nothing else. Raises ConfigError."""
    families = {path.partition(":")[0].rpartition(".")[2] for path in MODELS.values()}
    if record.family not in families:
        raise ConfigError(f"unknown model family {record.family!r}{nearest(record.family, families)}")
    first = next(name for name, path in MODELS.items() if f".{record.family}:" in path)
    return _build(first, record.config)
