"""Options of a training run."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """Options of training. Raises ValueError, naming the option, for a value out of range."""

    steps: int = field(default=1000, metadata={"help": "total number of optimizer steps"})
    batch_size: int = field(default=8, metadata={"help": "sequences per step, over all ranks"})
    micro_tokens: int | None = field(
        default=None,
        metadata={
            "help": "largest micro-batch of a rank (tokens), at least one sequence; less memory, same "
            "results; null: all rows"
        },
    )
    backpropagation_length: int | None = field(
        default=None,
        metadata={
            "help": "segment length of truncated backpropagation (tokens): the state, but no gradient, "
            "passes between segments, so that memory does not grow with the length; null: off"
        },
    )
    learning_rate: float = field(default=8e-3, metadata={"help": "peak learning rate"})
    minimum_learning_rate: float = field(
        default=1e-5, metadata={"help": "final learning rate of the cosine decay"}
    )
    warmup: float = field(
        default=0.1, metadata={"help": "fraction of the training with a linearly rising learning rate"}
    )
    weight_decay: float = field(
        default=0.1, metadata={"help": "AdamW weight decay of matrices (not of A_log, D, biases, norms)"}
    )
    betas: tuple[float, float] = field(
        default=(0.9, 0.95), metadata={"help": "AdamW decay rates of the two moments"}
    )
    epsilon: float = field(
        default=1e-8,
        metadata={"help": "AdamW epsilon; gradients far below it hardly move the parameters"},
    )
    clip: float = field(
        default=1.0, metadata={"help": "maximum norm of the gradient; larger ones are scaled down"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the initial parameters and of the data order"})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto",
        metadata={"help": "precision of matrix products and activations; auto: bf16 on a GPU, fp32 on a CPU"},
    )
    ema: float = field(
        default=0.0,
        metadata={"help": "decay of a moving average of the parameters, used for validation; 0: off"},
    )
    checkpoint_every: int = field(default=1000, metadata={"help": "steps between checkpoints"})
    keep: int = field(default=3, metadata={"help": "number of latest checkpoints to keep, besides the best"})
    validate_every: int = field(default=1000, metadata={"help": "steps between validations"})
    log_every: int = field(default=10, metadata={"help": "steps between lines of metrics.jsonl"})
    max_skipped: int = field(
        default=10, metadata={"help": "consecutive steps without a finite loss and gradient that end the run"}
    )

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "batch_size",
            "checkpoint_every",
            "keep",
            "validate_every",
            "log_every",
            "max_skipped",
        )
        for name in counts:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("micro_tokens", "backpropagation_length"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or null")
        for name in ("learning_rate", "epsilon", "clip"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        lowest = self.minimum_learning_rate
        _require(0 <= lowest <= self.learning_rate, "minimum_learning_rate", lowest, "in [0, learning_rate]")
        _require(0 <= self.warmup <= 1, "warmup", self.warmup, "a fraction in [0, 1]")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "both in [0, 1)")
        _require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")
        precisions = ("auto", "fp32", "bf16")
        _require(self.precision in precisions, "precision", self.precision, "auto, fp32 or bf16")


def _require(condition: bool, name: str, value: object, range_text: str) -> None:
    if not condition:
        raise ValueError(f"The training option {name} is {value}; it must be {range_text}.")
