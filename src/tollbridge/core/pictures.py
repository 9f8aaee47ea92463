"""How many tokens a picture may count as, for holds: by its size, and by the model that reads it.

Most providers count its area, a token for each 28 by 28 to 32 by 32 pixels, times 1 to 1.2, and first make smaller what
is larger than they read. The most that remains differs by model:

- OpenAI: 1,445 (gpt-4o), 2,488 (gpt-5-mini), 3,779 (gpt-5-nano); 10,000 patches of gpt-5.4 and gpt-5.5 in the detail
  `original`, and of later models whatever there is; gpt-4o-mini counts 2,833 and 5,667 for each of up to eight tiles
  (developers.openai.com/api/docs/guides/images-vision).
- Anthropic: 1,568, and 4,784 since Opus 4.7 (platform.claude.com/docs, build-with-claude/vision).
- Google: 258 for each of a few tiles, and since Gemini 3 1,120, or more if asked
  (ai.google.dev/gemini-api/docs/media-resolution).
- Qwen: 16,384 (vl_high_resolution_images; the models' own `max_pixels`).
"""

import re
from collections.abc import Sequence

from tollbridge.core import tokens

_PIXELS_PER_TOKEN = 750
# A picture that stands elsewhere, or whose size cannot be told, is taken for as large as most models read.
_UNKNOWN_PIXELS = 3_600_000
# The least and the most that a picture counts as, by the name that its provider has for the model.
_ANY = tokens.PER_IMAGE, 4_800
_BY_MODEL: tuple[tuple[re.Pattern[str], tuple[int, int]], ...] = (
    (re.compile(r"gpt-4o-mini"), (48_169, 48_169)),
    (re.compile(r"gpt-\d(?:\.\d+)?-(?:mini|nano)"), _ANY),
    (re.compile(r"gpt-5\.[45](?!\d)"), (tokens.PER_IMAGE, 12_000)),
    (re.compile(r"gpt-(?:5\.[6-9]|5\.\d\d|[6-9]|\d\d)(?!\d)"), (tokens.PER_IMAGE, 1_000_000)),
    (re.compile(r"qwen|qvq"), (tokens.PER_IMAGE, 16_384)),
)


def beyond(sizes: Sequence[int], model: str) -> int:
    """How many tokens pictures of these `sizes` (pixels; 0: unknown) may count as at `model` (its provider's name for
    it), beyond those that are counted for any picture and held with the margin.
    """
    name = model.lower()
    least, most = next((limits for pattern, limits in _BY_MODEL if pattern.search(name)), _ANY)
    held = sum(min(most, max(least, (size or _UNKNOWN_PIXELS) // _PIXELS_PER_TOKEN)) for size in sizes)
    return max(0, held - tokens.with_margin(len(sizes) * tokens.PER_IMAGE))
