"""A chat template compiled to render one conversation many times: `apply_chat_template`, faster.

The environment is the one in which transformers renders, sandbox included, with three shortcuts:
whether an attribute is safe is looked up once per type, JSON of the same object is made once, and
iterations of the template's loops that are known do not run again (loop_memo.py). `tokenize` holds
the outcome against `apply_chat_template` on rows of every build.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.trainer.data.jinja.loop_memo import LoopMemo, Rendering, loop_context
from pipeline.trainer.data.jinja.loops import RESUME, mark_loops

_DICT_ATTRIBUTES = frozenset(dir(dict))


class CompiledTemplate:
    """The template of one tokenizer, for conversations with or without tools."""

    def __init__(self, source: str) -> None:
        """Raises: TemplateSyntaxError: the source is no template."""
        from transformers.utils import chat_template_utils

        # Where transformers keeps its environment; nothing public tells how it renders.
        theirs: Any = chat_template_utils._compile_jinja_template(source)
        environment = _Sandbox.like(theirs.environment)
        tree = environment.parse(source)
        self._loops = mark_loops(tree, environment)
        self._template = _load(environment, tree)
        # Newer ones copy a message's reasoning to the names that older templates know.
        self._add_aliases = getattr(chat_template_utils, "_alias_reasoning_fields", _no_aliases)
        self._json = _Json(environment.filters["tojson"])
        environment.filters["tojson"] = self._json
        self.begin()

    def begin(self) -> None:
        """Another conversation follows: forget what was rendered."""
        self._memo = LoopMemo(self._loops)
        self._json.forget()
        self._seen: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """Messages and values that were given before must not have changed since `begin`."""
        rendering = Rendering(self._memo)
        variables["messages"] = [self._as_seen(message) for message in messages]
        context = self._template.new_context({**variables, RESUME: rendering.resume})
        for text in self._template.root_render_func(context):
            rendering.shown.append(text)  # one by one: the loops look at what was shown so far
        return "".join(rendering.shown)

    def _as_seen(self, message: dict[str, Any]) -> dict[str, Any]:
        """As `apply_chat_template` hands it to the template: the same object every time."""
        known = self._seen.get(id(message))
        if known is None:
            present = {key: value for key, value in message.items() if value is not None}
            known = self._seen[id(message)] = (message, self._add_aliases([present])[0])
        return known[1]


def _no_aliases(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return chat


def _load(environment: Environment, tree: Any) -> Template:
    code = environment.compile(tree)
    module: dict[str, Any] = {"environment": environment, "__file__": code.co_filename}
    exec(code, module)  # as Template.from_code does
    module["LoopContext"] = loop_context
    return Template.from_module_dict(environment, module, environment.make_globals(None))


class _Json:
    """The filter `tojson`; what was asked for before is remembered."""

    def __init__(self, tojson: Any) -> None:
        self._tojson = tojson
        self.forget()

    def forget(self) -> None:
        self._known: dict[Any, tuple[Any, str]] = {}

    def __call__(self, value: Any, *args: Any, **options: Any) -> str:
        if not isinstance(value, dict | list):
            return self._tojson(value, *args, **options)
        key = (id(value), args, *options.items())
        known = self._known.get(key)
        if known is None:  # the value is kept, so that no other one gets its id
            known = self._known[key] = (value, self._tojson(value, *args, **options))
        return known[1]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox; answers that depend on nothing but types are remembered."""

    def __init__(self, **options: Any) -> None:
        self._is_safe: dict[tuple[type, str], bool] = {}
        super().__init__(**options)

    @classmethod
    def like(cls, other: Environment) -> "_Sandbox":
        """With the same settings."""
        made = cls(
            trim_blocks=other.trim_blocks,
            lstrip_blocks=other.lstrip_blocks,
            extensions=[type(extension) for extension in other.extensions.values()],
        )
        made.filters.update(other.filters)
        made.tests.update(other.tests)
        made.globals.update(other.globals)
        return made

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = self._is_safe.get((type(obj), attr))
        if known is None:
            known = self._is_safe[type(obj), attr] = super().is_safe_attribute(obj, attr, value)
        return known

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)
