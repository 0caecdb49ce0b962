"""What else could compute the same embeddings: the float twin in torch and in ONNX Runtime.

Each peer is set up as its own documentation advises, with the same number of threads, on dense
batches without padding, which is its best case.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritserve.model.config import ModelConfig
from tritserve.model.network.bitnet import BitNet

Run = Callable[[np.ndarray], np.ndarray]


class DenseTwin(nn.Module):
    """The float twin as one would write it for dense batches: `[batch, seq_len, embed_dim]` in."""

    def __init__(self, model: BitNet) -> None:
        super().__init__()
        config = model.config
        self.heads = config.num_heads
        self.standardize = model.standardize
        self.input_projection = model.input_projection
        self.blocks = model.blocks
        self.final_norm = model.final_norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardize(x)
        if self.input_projection is not None:
            x = self.input_projection(x)
        batch, seq_len, hidden = x.shape
        for block in self.blocks:
            qkv = block.attention.query_key_value(block.attention_norm(x))
            heads = qkv.view(batch, seq_len, 3, self.heads, hidden // self.heads)
            query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            joined = attended.transpose(1, 2).reshape(batch, seq_len, hidden)
            x = x + block.attention.output(joined)
            x = x + block.ffn.down(F.silu(block.ffn.up(block.ffn_norm(x))))
        return self.final_norm(x)[:, -1]


def _plain(model: BitNet) -> DenseTwin:
    """The twin with ordinary linear layers, which is what quantisers and exporters look for."""
    twin = DenseTwin(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.Linear):
            plain = nn.Linear(module.in_features, module.out_features)
            plain.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(twin.get_submodule(parent), child, plain)
    return twin.eval()


def peers(config: ModelConfig, threads: int) -> dict[str, Run]:
    """The contenders by name, each taking `[batch, seq_len, embed_dim]` float32."""
    twin = _float_twin(config, threads)
    compiled = torch.compile(twin, dynamic=False)
    int8 = torch.ao.quantization.quantize_dynamic(twin, {nn.Linear}, dtype=torch.qint8)
    runs = {
        "torch_eager": _in_torch(twin),
        "torch_compile": _in_torch(compiled),
        "torch_int8": _in_torch(int8),
    }
    return runs | _onnx_peers(twin, config, threads)


def torch_eager(config: ModelConfig, threads: int) -> Run:
    """That contender alone, which needs nothing but torch."""
    return _in_torch(_float_twin(config, threads))


def _float_twin(config: ModelConfig, threads: int) -> DenseTwin:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return _plain(BitNet(config.model_copy(update={"quantize": "none"})).eval())


def _in_torch(module: Callable[[Tensor], Tensor]) -> Run:
    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(batch)).numpy()

    return run


def _onnx_peers(twin: DenseTwin, config: ModelConfig, threads: int) -> dict[str, Run]:
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp())
    example = torch.zeros(2, config.max_timesteps, config.embed_dim)
    torch.onnx.export(
        twin,
        (example,),
        folder / "float.onnx",
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        external_data=False,
        verbose=False,
    )
    quant_pre_process(folder / "float.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    quantize_dynamic(folder / "prepared.onnx", folder / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1

    def session(name: str) -> Run:
        loaded = onnxruntime.InferenceSession(
            folder / name, options, providers=["CPUExecutionProvider"]
        )
        return lambda batch: loaded.run(None, {"x": batch})[0]

    return {"onnx_float32": session("float.onnx"), "onnx_int8": session("int8.onnx")}
