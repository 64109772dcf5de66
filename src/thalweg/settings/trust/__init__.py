"""Whose code may run: what a run loads is fingerprinted, what a directory names runs only once it is known.

A person's own code is named by text, ``file.py:name`` or ``package.module:name``, and
:func:`thalweg.settings.plugins.load_object` alone makes an object of it. Before it runs anything it asks
here:

* What a person names on a command line, in a call or in a recipe that they give, may run. The files that it
  is loaded from are fingerprinted, and what was trained with is remembered in the person's state folder.
* What a *run directory* names runs only if just this code was trained with here before, or if the person says
  so (``--trust-code``, ``trust_code=True``). Whoever reads a run directory need not think of it: what stands
  in one is known as such from then on (:func:`note_specs`).
* What a training, a race or a model was begun with is written down; other code than that is refused too.
* Code that changes while a run is under way is refused when it is loaded again.

A fingerprint is the SHA-256 of each file: the one that is named, and those that it imports by ``import``
statements and that aren't installed, as ``helpers.py`` beside it. Of what is installed only the named
module's file is taken. Data that code reads, and what it imports by other means, isn't seen.
"""

from thalweg.settings.trust.fingerprints import Code, fingerprint, same_bytes
from thalweg.settings.trust.gate import Gate, admit, current, note_specs, own_code, runs_own_code
from thalweg.settings.trust.known_code import known_code, state_folder

__all__ = [
    "Code",
    "Gate",
    "admit",
    "current",
    "fingerprint",
    "known_code",
    "note_specs",
    "own_code",
    "runs_own_code",
    "same_bytes",
    "state_folder",
]
