"""Listening page: one self-contained file with the exact samples; it plays and sorts in a browser."""

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from audio.data.waveform import RATE
from audio.listening.page import ListeningClip, listening_page, wav_bytes
from tests.audio.browser import Page, find_chromium, open_page
from tests.audio.conftest import noise, tone

CLIPS = [
    ListeningClip("ours", "clip2", noise(1600), "two", 0.9, None, 1.0),
    ListeningClip("ours", "clip10", tone(3200), "seven", 0.4, None, 2.0),
    ListeningClip("theirs", "clip1", noise(800, 1), "seven", 0.7, "six"),
]
SUMMARY = {"ours": {"FID": "1.20 (1.10 to 1.30)"}, "theirs": {"IS": "5.00"}}


class Elements(HTMLParser):
    """Every start tag with its attributes, in order, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and wanted.items() <= attributes.items()
        ]


@pytest.fixture(scope="module")
def page() -> str:
    return listening_page(CLIPS, "Digits", "Three clips.", SUMMARY)


def content(uri: str | None, kind: str) -> bytes:
    assert uri is not None
    head, _, data = uri.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(data, validate=True)


def test_every_clip_has_a_player_with_its_own_samples(page: str) -> None:
    players = Elements(page).named("audio")
    assert len(players) == len(CLIPS)
    for player, clip in zip(players, CLIPS, strict=True):
        assert "controls" in player
        samples, rate = soundfile.read(io.BytesIO(content(player["src"], "audio/wav")), dtype="float32")
        assert rate == RATE
        np.testing.assert_allclose(samples, clip.waveform, rtol=0, atol=0.5 / 2**15)


def test_16_bit_sound_is_exact() -> None:
    samples = noise(999)
    assert np.array_equal(soundfile.read(io.BytesIO(wav_bytes(samples)), dtype="float32")[0], samples)


def test_every_clip_has_its_pictures(page: str) -> None:
    elements = Elements(page)
    pictures = elements.named("img")
    assert [picture["alt"] for picture in pictures] == [f"Log-mel spectrogram of {c.name}" for c in CLIPS]
    assert all(content(picture["src"], "image/png").startswith(b"\x89PNG") for picture in pictures)
    assert len({picture["src"] for picture in pictures}) == len(CLIPS)
    assert len(elements.named("path")) == len(CLIPS)


def test_pictures_share_one_time_scale(page: str) -> None:
    rows = Elements(page).named("tr", **{"class": "clip"})
    assert [(row["style"] or "").partition("--part:")[2] for row in rows] == ["0.500", "1.000", "0.250"]


def test_rows_have_their_sort_keys(page: str) -> None:
    elements = Elements(page)
    rows = elements.named("tr", **{"class": "clip"})
    keys = [header["data-key"] for header in elements.named("th") if "data-key" in header]
    assert keys == ["name", "model", "class", "confidence", "bits"]
    assert all(f"data-{key}" in row for key in keys for row in rows)
    assert [row["data-name"] for row in rows] == ["clip2", "clip10", "clip1"]
    assert [row["data-bits"] for row in rows] == ["1.000000", "2.000000", ""]
    assert [row["data-confidence"] for row in rows] == ["0.900000", "0.400000", "0.700000"]


def test_the_page_fetches_nothing(page: str) -> None:
    elements = Elements(page)
    for _, attributes in elements.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp", re.sub(r'="data:[^"]*"', "", page))
    (policy,) = elements.named("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_summary_is_above_the_clips(page: str) -> None:
    elements = Elements(page)
    assert elements.text.index("1.20 (1.10 to 1.30)") < elements.text.index("clip2")
    assert "labelled six" in elements.text


def test_a_value_unknown_for_every_clip_has_no_column() -> None:
    bare = Elements(listening_page([ListeningClip("m", "a", tone(100))], "T", "D", {}))
    assert [header["data-key"] for header in bare.named("th") if "data-key" in header] == ["name"]
    assert not bare.named("select")


def test_names_are_text_not_markup() -> None:
    name = '"><script>alert(1)</script>&amp;'
    elements = Elements(listening_page([ListeningClip(name, name, tone(100), name)], name, name, {name: {}}))
    assert len(elements.named("script")) == 1
    assert elements.named("tr", **{"class": "clip"})[0]["data-name"] == name


@pytest.mark.parametrize("samples", [1, 7, 160, 161, 40_000])
def test_any_length_has_a_picture(samples: int) -> None:
    page = listening_page([ListeningClip("m", "a", np.zeros(samples, np.float32))], "T", "D", {})
    (picture,) = Elements(page).named("img")
    assert content(picture["src"], "image/png").startswith(b"\x89PNG")


def test_a_page_without_clips_and_nan_samples_are_rejected() -> None:
    with pytest.raises(ValueError, match="no clip"):
        listening_page([], "T", "D", {})
    with pytest.raises(ValueError, match="NaN"):
        listening_page([ListeningClip("m", "a", np.full(10, np.nan, np.float32))], "T", "D", {})


in_browser = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("Chromium is not installed; Debian has it in the package chromium")
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(page)
    with open_page(folder / "page.html", chromium, folder / "profile") as opened_page:
        yield opened_page


def names(browser: Page) -> list[str]:
    """Return the names of the visible clips, in order."""
    shown: list[str] = browser.evaluate(
        "[...document.querySelectorAll('.clip')].filter(clip => clip.checkVisibility())"
        ".map(clip => clip.dataset.name)"
    )
    return shown


def press(browser: Page, selector: str, key: str = "Enter") -> None:
    """Focus an element and press a key."""
    browser.evaluate(f"document.querySelector({selector!r}).focus()")
    text = {"Enter": "\r", " ": " "}.get(key, "")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@in_browser
def test_browser_plays_a_clip_to_its_end(browser: Page) -> None:
    browser.evaluate("globalThis.player = document.querySelector('[data-name=clip2] audio'); 0")
    browser.evaluate("player.onended = () => { globalThis.ended = true }; 0")
    press(browser, "[data-name=clip2] .play")
    ended = (
        "new Promise((done) => { if (globalThis.ended) done(true); else player.onended = () => done(true) })"
    )
    assert browser.evaluate(ended)
    assert browser.evaluate("player.currentTime") == pytest.approx(1600 / RATE, abs=0.01)
    assert browser.evaluate("player.duration") == pytest.approx(1600 / RATE, abs=1e-3)
    assert not browser.evaluate("player.controls")


@in_browser
def test_browser_sorts_from_the_keyboard(browser: Page) -> None:
    assert names(browser) == ["clip2", "clip10", "clip1"]
    press(browser, "th[data-key=name] button")
    assert names(browser) == ["clip1", "clip2", "clip10"]
    press(browser, "th[data-key=confidence] button")
    assert names(browser) == ["clip10", "clip1", "clip2"]
    press(browser, "th[data-key=bits] button")
    assert names(browser) == ["clip2", "clip10", "clip1"]
    press(browser, "th[data-key=bits] button")
    assert names(browser) == ["clip10", "clip2", "clip1"], "unknown values come last in both directions"
    sorts = "[...document.querySelectorAll('[aria-sort]')].map(th => th.dataset.key + th.ariaSort)"
    assert browser.evaluate(sorts) == ["bitsdescending"]


@in_browser
def test_browser_filters_by_class_and_model(browser: Page) -> None:
    choose = (
        "(name, value) => { const s = document.querySelector('select[name=' + name + ']'); s.value = value;"
    )
    choose += " s.dispatchEvent(new Event('change', { bubbles: true })) }"
    press(browser, "th[data-key=name] button")
    browser.evaluate(f"({choose})('class', 'seven')")
    assert names(browser) == ["clip1", "clip10"]
    assert browser.evaluate("document.querySelector('output').textContent") == "2 of 3 clips"
    browser.evaluate(f"({choose})('model', 'ours')")
    assert names(browser) == ["clip10"]
    browser.evaluate(f"({choose})('model', ''); ({choose})('class', '')")
    assert len(names(browser)) == 3


@in_browser
def test_browser_lays_models_side_by_side(browser: Page) -> None:
    press(browser, "#side-by-side")
    press(browser, "th[data-key=class] button")
    place = "name => { const b = document.querySelector('[data-name=' + name + ']').getBoundingClientRect();"
    place += " return [b.x, b.y] }"
    ours, theirs, other = (browser.evaluate(f"({place})('{name}')") for name in ("clip10", "clip1", "clip2"))
    assert ours[0] < theirs[0], "each model has its column"
    assert ours[1] == theirs[1], "clips of one class share a row"
    assert other[0] == ours[0]
    assert other[1] > ours[1]
    press(browser, "#side-by-side")
