"""Single sounds of AudioSet classes that are electronic or noise by nature: what each class is, and one event of it.

Every class is one that AudioSet Strong trains on, and one that a listener can tell from the other 23. Where AudioSet
nests classes (a chirp tone is a kind of sine wave) an event carries the inner class alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import _synthesis_alarms as alarms
from pipeline import _synthesis_tones as plain
from pipeline._synthesis_parts import Waveform, faded

_AUDIBLE = 0.01  # of the peak, -40 dB: where a dying sound is said to end
_BLOCK_S = 0.01


@dataclass(frozen=True, kw_only=True)
class SoundClass:
    """A class that can be synthesised. Events last from `shortest_ms` to `longest_ms`, or end sooner at a pause.

    `synthesise(rng, samples, sample_rate)` returns mono [samples] of any level, sounding from sample 0.
    """

    mid: str
    name: str
    shortest_ms: int
    longest_ms: int
    synthesise: Callable[[np.random.Generator, int, int], Waveform]


def _sound(mid: str, name: str, shortest_ms: int, longest_ms: int, synthesise: Callable[..., Waveform]) -> SoundClass:
    return SoundClass(mid=mid, name=name, shortest_ms=shortest_ms, longest_ms=longest_ms, synthesise=synthesise)


SOUND_CLASSES: tuple[SoundClass, ...] = (
    _sound("/m/05x_td", "Air horn, truck horn", 600, 2500, alarms.air_horn),
    _sound("/m/046dlr", "Alarm clock", 1500, 6000, alarms.alarm_clock),
    _sound("/m/012n7d", "Ambulance (siren)", 2200, 7000, alarms.ambulance_siren),
    _sound("/m/02fs_r", "Beep, bleep", 100, 400, plain.beep),
    _sound("/m/01z47d", "Busy signal", 1800, 6000, plain.busy_signal),
    _sound("/m/030rvx", "Buzzer", 500, 2500, alarms.buzzer),
    _sound("/m/01sb50", "Cellphone buzz, vibrating alert", 1000, 4500, plain.cellphone_buzz),
    _sound("/m/0hdsk", "Chirp tone", 500, 3000, plain.chirp_tone),
    _sound("/m/0dgbq", "Civil defense siren", 5000, 9000, alarms.civil_defense_siren),
    _sound("/m/015jpf", "Dial tone", 1200, 6000, plain.dial_tone),
    _sound("/m/07r67yg", "Ding-dong", 1200, 2600, alarms.ding_dong),
    _sound("/m/06xkwv", "Mains hum", 2000, 8000, plain.mains_hum),
    _sound("/m/04qvtq", "Police car (siren)", 1500, 6500, alarms.police_siren),
    _sound("/m/07pt_g0", "Pulse", 2500, 8000, plain.pulse),
    _sound("/m/02rhddq", "Reversing beeps", 2000, 6500, alarms.reversing_beeps),
    _sound("/m/0bcdqg", "Ringing tone, ringback tone", 1000, 2000, plain.ringing_tone),
    _sound("/m/01v_m0", "Sine wave", 1000, 6000, plain.sine_wave),
    _sound("/m/01y3hg", "Smoke detector, smoke alarm", 2400, 7000, alarms.smoke_alarm),
    _sound("/m/0790c", "Sonar", 1200, 3000, alarms.sonar),
    _sound("/m/07rgkc5", "Static", 1000, 5000, plain.static),
    _sound("/m/02c8p", "Telephone dialing, DTMF", 600, 3000, plain.dtmf),
    _sound("/m/07pp8cl", "Telephone bell ringing", 800, 2500, alarms.telephone_bell),
    _sound("/m/07qjznl", "Tick-tock", 1800, 7000, alarms.tick_tock),
    _sound("/m/0chx_", "White noise, pink noise", 1000, 6000, plain.steady_noise),
)


def render_event(
    sound: SoundClass, rng: np.random.Generator, *, samples: int, sample_rate: int
) -> npt.NDArray[np.float64]:
    """One event of `sound`: at most `samples` long, audible from its first to its last 5 ms, unit RMS where it sounds.

    What follows the last audible moment (a pause of the pattern, a tail below -40 dB) is cut off: the length returned
    is the length of the event. Pauses inside a pattern stay.
    """
    waveform = sound.synthesise(rng, samples, sample_rate)
    magnitude = np.abs(waveform)
    audible = np.flatnonzero(magnitude > _AUDIBLE * magnitude.max())
    waveform = faded(waveform[audible[0] : audible[-1] + 1], sample_rate)
    return waveform / _sounding_rms(waveform, sample_rate)


def _sounding_rms(waveform: Waveform, sample_rate: int) -> float:
    """RMS over the 10 ms blocks within 20 dB of the loudest: pauses and tails do not make an event quieter."""
    block = round(_BLOCK_S * sample_rate)
    whole = waveform[: max(1, len(waveform) // block) * block]
    energies = np.mean(np.square(whole.reshape(-1, min(block, len(whole)))), axis=1)
    return float(np.sqrt(np.mean(energies[energies >= 0.01 * energies.max()])))
