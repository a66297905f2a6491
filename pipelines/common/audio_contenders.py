"""The models that audio_compare trains side by side: of about 1.8 million parameters each."""

from dataclasses import dataclass, replace

from core.models.multiscale import MixerConfig, MultiscaleModelConfig
from core.models.samplernn import SampleRnnConfig
from core.models.wavenet import WaveNetConfig
from pipelines.common.audio_model import AudioModelConfig, for_sound

S4D_STATES = 64
"""Of a channel, as SaShiMi has them; a Mamba block has 16 of twice as many channels."""


@dataclass(frozen=True)
class Contender:
    """A model, what its row is called, and the highest learning rate that its paper trains it with."""

    name: str
    model: AudioModelConfig
    learning_rate: float


def u_net(outer: MixerConfig, centre: MixerConfig, d_state: int = 16) -> AudioModelConfig:
    """Two blocks a stage on clocks of 16, 4 and 1 kHz, with one kind of mixer around another."""
    shape = MultiscaleModelConfig(
        d_model=64, n_layer=2, pools=[4, 4], d_state=d_state, outer=outer, middle=outer, centre=centre
    )
    return AudioModelConfig("unet", unet=shape)


def contenders() -> list[Contender]:
    """Mamba, and what came before it."""
    mamba, s4d_mlp = for_sound(), MixerConfig("s4d_mlp")
    wavenet = WaveNetConfig(d_model=64, d_skip=320, n_stack=4, n_layer=10)
    samplernn = SampleRnnConfig(d_model=88, width=8, pools=[8, 4])
    return [
        Contender("mamba U-Net", u_net(mamba.outer, mamba.centre), 2e-3),
        Contender("sashimi: S4D + MLP U-Net", u_net(s4d_mlp, s4d_mlp, S4D_STATES), 2e-3),
        Contender("wavenet", AudioModelConfig("wavenet", wavenet=wavenet), 1e-3),
        Contender("samplernn", AudioModelConfig("samplernn", samplernn=samplernn), 1e-3),
    ]


def ablation() -> list[Contender]:
    """The lines of figure 10 of the Mamba paper (Gu and Dao 2023): the same mixer in every part.

    The last is the model of `contenders`: S4D next to the samples, S6 on the slowest clock.
    """
    s6 = MixerConfig()
    lines = {
        "S6": s6,
        "+ complex": replace(s6, complex=True),
        "- selective B, C": MixerConfig(complex=True, selective=["dt"]),
        "- selective dt": MixerConfig(complex=True, selective=False),
        "S4D + MLP": MixerConfig("s4d_mlp"),
    }
    mamba = contenders()[0]
    return [
        *(
            Contender(
                name, u_net(kind, kind, S4D_STATES if kind.block == "s4d_mlp" else 16), mamba.learning_rate
            )
            for name, kind in lines.items()
        ),
        replace(mamba, name="S4D around S6"),
    ]
