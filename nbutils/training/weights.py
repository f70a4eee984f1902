"""What of a model is trained: dropout, frozen layers, adapters, gradients of large tables, blending with the base."""

import contextlib
from collections.abc import Iterator

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from nbutils.core import UserError
from nbutils.training.options import TrainingOptions


def copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the model's weights: on its own device if four fit there, or else on the CPU."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    device = next(iter(weights.values())).device
    size = sum(value.nbytes for value in weights.values())
    if device.type == "cuda" and 4 * size > torch.cuda.mem_get_info(device)[0]:
        device = torch.device("cpu")
    return {name: value.to(device, copy=True).contiguous() for name, value in weights.items()}


def prepare_weights(model: SentenceTransformer, options: TrainingOptions) -> None:
    """Switch off dropout and the weights that are not to be trained; add adapters where they are asked for."""
    transformer = model.transformers_model
    if options.lora_rank:
        transformer = _add_lora(model, options.lora_rank)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not options.dropout and "lora" not in name:
            module.p = 0.0
    for name, parameter in model.named_parameters():
        if "pooler." in name:
            parameter.requires_grad = False  # no part of the vector
    if options.frozen_layers is not None:
        layers = next((module for module in transformer.modules() if isinstance(module, nn.ModuleList)), [])
        for module in [transformer.get_input_embeddings(), *layers[: options.frozen_layers]]:
            module.requires_grad_(False)


def _add_lora(model: SentenceTransformer, rank: int) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("lora_rank needs an extra package: run `pip install -e '.[lora]'`.") from error
    transformer = model.transformers_model
    adapted = get_peft_model(transformer, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    _replace(model, transformer, adapted)
    return adapted


def merge_lora(model: SentenceTransformer) -> None:
    """Add the adapters to the weights that they adapt, and take them away."""
    adapted = next(module for module in model.modules() if hasattr(module, "merge_and_unload"))
    _replace(model, adapted, adapted.merge_and_unload())


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def pass_sparse_gradients(embedding: nn.Embedding) -> None:
    """Let each sub-batch add only the rows it used to the gradient of a large table, which stays dense itself."""

    def densify(weight: nn.Parameter) -> None:
        if weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()

    if embedding.weight.requires_grad:
        embedding.sparse = True
        embedding.weight.register_post_accumulate_grad_hook(densify)


@contextlib.contextmanager
def blended(model: nn.Module, base: dict[str, torch.Tensor], share: float) -> Iterator[None]:
    """Inside, the model has this share of its own weights and the rest of the base's."""
    if share == 1:
        yield
        return
    tuned = copy_weights(model)
    mixed = {
        name: base[name].to(value).lerp(value, share) for name, value in tuned.items() if value.is_floating_point()
    }
    model.load_state_dict(tuned | mixed)
    try:
        yield
    finally:
        model.load_state_dict(tuned)
