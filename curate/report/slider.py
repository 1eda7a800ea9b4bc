"""The section with the threshold slider; slider.js counts from the table that thresholds.py made."""

from string import Template
from typing import Any

from curate.report.elements import text
from curate.report.samples import Shown

FORM = """
<p>What another threshold would keep, given the other steps as they are. Untick a step to count without it.
 $note</p>
<div class="explorer" id="explorer" hidden>
<div class="controls">
<label class="pick">Signal <select id="try-column">$columns</select></label>
<fieldset class="sides"><legend>Keep what lies</legend>
<label><input type="radio" name="try-side" value="above"> above</label>
<label><input type="radio" name="try-side" value="below"> below</label></fieldset>
<fieldset class="rules" id="try-rules"><legend>Other steps</legend>$rules</fieldset>
</div>
<div class="drawing"><div class="bins" id="try-bins" aria-hidden="true"></div>
<input type="range" id="try-slider" aria-label="Threshold" step="1" min="0">
<div class="axis" id="try-axis" aria-hidden="true"></div></div>
<p class="key"><span class="kept">kept</span><span class="dropped">dropped by this threshold</span>
<span class="others">dropped by another step</span></p>
<p class="told"><output id="try-told" for="try-slider"></output>
<button type="button" id="try-reset">Back to the recipe</button></p>
<div class="bands">
<div><h3>Just dropped <small id="try-dropped-note"></small></h3><ul class="grid" id="try-dropped"></ul></div>
<div><h3>Just kept <small id="try-kept-note"></small></h3><ul class="grid" id="try-kept"></ul></div>
</div>
</div>
<noscript><p>The slider needs the script of this page; the other sections do not.</p></noscript>
"""


def section(numbers: dict[str, Any], shown: Shown) -> str:
    """The form that the script fills; nothing where no column has two values."""
    told = numbers["thresholds"]
    if not told:
        return ""
    options = "".join(
        f'<option value="{at}">{text(column["column"])}</option>' for at, column in enumerate(told["columns"])
    )
    rules = "".join(
        f'<label title="{text(rule["rule"])}"><input type="checkbox" value="{at}" checked> {text(rule["name"])}</label>'
        for at, rule in enumerate(told["rules"])
    )
    note = "" if told["complete"] else (
        "This selection was made by an older curate, which did not note every step's verdict: pairs that it dropped "
        "stay dropped here. Run the filter again under another name to count them.")  # fmt: skip
    return Template(FORM).substitute(columns=options, rules=rules or "<span>none</span>", note=note)
