"""Choice of the decoding engine for a model on its device."""

from torch import Tensor

from core.decoding import persistent
from core.decoding.cpu import CpuEngine
from core.decoding.eager import EagerEngine
from core.decoding.graph import GraphEngine
from core.decoding.persistent import PersistentEngine
from core.decoding.program import can_pack
from core.decoding.sampling import SamplingConfig
from core.decoding.state import Engine, Model
from core.layers.plain import all_plain


def fastest_engine(model: Model, count: int, config: SamplingConfig, allowed: Tensor) -> Engine:
    """Return the fastest engine that supports the model on its device.

    allowed: (padded vocabulary,) bool, the tokens that may be sampled.

    On a GPU: PersistentEngine for models of Mamba blocks in float32 that fit, on compute capability 9.0 or
    newer; else GraphEngine. On a CPU: CpuEngine for models of Mamba blocks in float32. EagerEngine for other
    models, and for any model with hooks, adapters or replaced layers (core/layers/plain.py), which only a
    call of the module applies.
    With PersistentEngine and CpuEngine a sample is bit-identical in any batch. The others call library
    matrix products, so the last bits of their logits may depend on the batch.
    """
    if not all_plain(model):
        return EagerEngine(model, config, allowed)
    if allowed.device.type == "cuda":
        if persistent.supports(model, allowed.device):
            return PersistentEngine(model, count, config, allowed)
        return GraphEngine(model, count, config, allowed)
    if can_pack(model):
        return CpuEngine(model, count, config, allowed)
    return EagerEngine(model, config, allowed)
