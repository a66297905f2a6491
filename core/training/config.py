"""The options of a training run."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. Raises ValueError, naming the option, for a value outside its range."""

    steps: int = field(default=1000, metadata={"help": "optimizer steps in all"})
    batch_size: int = field(default=8, metadata={"help": "sequences in a step, over all processes"})
    micro_tokens: int | None = field(
        default=None,
        metadata={
            "help": "tokens that one process runs at once, but one sequence at least (less memory, same "
            "results); null: its whole share"
        },
    )
    backpropagation_length: int | None = field(
        default=None,
        metadata={
            "help": "run longer sequences in pieces of this many tokens: the state is carried from piece to "
            "piece, the gradient is not, and memory no longer grows with the length; null: never"
        },
    )
    learning_rate: float = field(default=8e-3, metadata={"help": "highest learning rate"})
    minimum_learning_rate: float = field(
        default=1e-5, metadata={"help": "learning rate at the end of the cosine"}
    )
    warmup: float = field(
        default=0.1, metadata={"help": "fraction of the training in which the learning rate rises linearly"}
    )
    weight_decay: float = field(
        default=0.1, metadata={"help": "AdamW's decay of matrices (not of A_log, D, biases, norms)"}
    )
    betas: tuple[float, float] = field(
        default=(0.9, 0.95), metadata={"help": "AdamW's decay rates of the two moments"}
    )
    epsilon: float = field(
        default=1e-8,
        metadata={"help": "AdamW's epsilon: gradients far below it hardly move the parameters any more"},
    )
    clip: float = field(
        default=1.0, metadata={"help": "largest norm of the gradient; longer ones are scaled"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the initial parameters and of the order of data"})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto",
        metadata={"help": "of matrix products and activations; auto: bf16 on a GPU, fp32 on a CPU"},
    )
    ema: float = field(
        default=0.0,
        metadata={"help": "decay of a moving average of the parameters, validated in their place; 0: none"},
    )
    checkpoint_every: int = field(default=1000, metadata={"help": "steps between checkpoints"})
    keep: int = field(default=3, metadata={"help": "latest checkpoints that are kept, besides the best"})
    validate_every: int = field(default=1000, metadata={"help": "steps between validations"})
    log_every: int = field(default=10, metadata={"help": "steps between lines of metrics.jsonl"})
    max_skipped: int = field(
        default=10, metadata={"help": "steps in a row without a finite loss and gradient that end the run"}
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
        raise ValueError(f"The training option {name} is {value}, but must be {range_text}.")
