"""The well-known template of hybrid inference: its keys become settings of ours. Pure. See docs/template.md."""

from spillway.template.table import KEYS, SECTIONS, Key
from spillway.template.translation import TemplateError, translated

__all__ = ["KEYS", "SECTIONS", "Key", "TemplateError", "translated"]
