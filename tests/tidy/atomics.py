#!/usr/bin/env python3
"""Keeps docs/memory-model.md, the comments at atomics and the heads of the spin models in step with the code.

    tests/tidy/atomics.py                 check; prints every difference, exit code 1 if there is any
    tests/tidy/atomics.py --list [FILE]   the rows that the tables still need (FILE: of one file, e.g. tree.c)
    tests/tidy/atomics.py --self-test     planted differences must be found

An atomic operation of core/ or include/ is known by file, function, field and operation, e.g. (core/tree.c, rctx__link, state,
cas_acquire): no line numbers, so that edits elsewhere change nothing. The field is what stands behind the last "->" of the first argument,
without indexes. The operation is named as by the helpers of core/platform.h, also where a builtin is called directly; the helpers'
own definitions do not count, nor does atomic_init(), which is no atomic operation.

Checked: every operation has a row in a table of the document, with its order, and every row an operation; an operation that is not
relaxed says its partner in a comment (in its statement, before it, or before its function); functions that such a comment or a row
names exist; a fence is an operation; what a model says to model ("C: core/FILE.c name, name; ...") exists in that file.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = "docs/memory-model.md"
HELPERS = "core/platform.h"

ORDERS = "relaxed|consume|acquire|release|acq_rel|seq_cst"
HELPER = re.compile(rf"\b(load|store|add|sub|exchange|cas)_({ORDERS})\s*\(")
BUILTIN = re.compile(r"\b(?:__)?atomic_(\w+)\s*\(|\b__sync_(\w+)\s*\(")
ORDER = re.compile(rf"memory_order_({ORDERS})|__ATOMIC_({ORDERS.upper()})")
ROW = re.compile(r"^\|\s*`?([\w./]+): ([\w.]+)`?\s*\|\s*`?([\w.]+)`?\s*\|\s*`?(\w+)`?\s*\|\s*(.*?)\s*\|$")
CALL = re.compile(r"\b([A-Za-z_]\w*)\(\)")
PARTNER = re.compile(r"partners?\b", re.IGNORECASE)
REFERS = re.compile(r"partners?\b|\bas (above|below|in|[a-z_]+\()", re.IGNORECASE)
DEFINE = re.compile(r"\s*#\s*define\s+(\w+)")
KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "defined", "__attribute__", "do", "else", "asm"}
TOP = "file"  # the "function" of what stands outside of all


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def sources():
    for top in ("core", "include"):
        for directory, names, files in os.walk(os.path.join(ROOT, top)):
            names.sort()
            for name in sorted(files):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(directory, name), ROOT)


def blanked(text):
    """The text with comments and literals replaced by spaces, and the comments: (first line, last line, text), from 0."""
    code, comments = list(text), []
    for found in re.finditer(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', text, re.DOTALL):
        for at in range(*found.span()):
            if code[at] != "\n":
                code[at] = " "
        if found[0].startswith("/"):
            first = text.count("\n", 0, found.start())
            comments.append((first, first + found[0].count("\n"), found[0]))
    return "".join(code), comments


def call_end(code, at):
    """Behind the bracket that closes the one at `at`; the end of the text if none does."""
    depth = 0
    while at < len(code):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(code[at], 0)
        at += 1
        if depth == 0:
            break
    return at


def arguments(code, at):
    """Of the call whose opening bracket is at `at`."""
    found, depth, start = [], 0, at + 1
    for i in range(at, call_end(code, at)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(code[i], 0)
        if depth == 0 or depth == 1 and code[i] == ",":
            found.append(code[start:i].strip())
            start = i + 1
    return found


def field_of(expression):
    """`&manager->workers.busy`: workers.busy; `&last[signal]`: last; `rctx__after_state(after)`: rctx__after_state."""
    text = re.sub(r"\s+", "", expression)
    while re.search(r"\[[^\[\]]*\]", text):
        text = re.sub(r"\[[^\[\]]*\]", "", text)
    call = re.fullmatch(r"(\w+)\(\w*\)", text)
    if call:
        return call[1]
    text = text.split("->")[-1]
    names = re.findall(r"[A-Za-z_]\w*(?:\.\w+)*", text)
    return names[-1] if names else text


class Source:
    """One file: its functions (macros count) as (first line, last line, name), and its operations."""

    def __init__(self, path, text):
        self.path, self.lines = path, text.split("\n")
        self.code, self.comments = blanked(text)
        self.code_lines = self.code.split("\n")
        self.functions = self.find_functions()
        self.operations = list(self.find_operations())

    def find_functions(self):
        found, line = [], 0
        plain = list(self.code_lines)
        while line < len(plain):
            define, first = DEFINE.match(plain[line]), line
            if plain[line].lstrip().startswith("#"):
                while plain[line].endswith("\\") and line + 1 < len(plain):
                    plain[line] = ""
                    line += 1
                plain[line] = ""
                if define:
                    found.append((first, line, define[1]))
            line += 1
        text, at, start = "\n".join(plain), 0, 0
        for at in self.top_level_braces(text):
            head = text[start:at]
            end = call_end(text, at)
            name = self.name_of(head)
            if name:
                found.append((text.count("\n", 0, start + len(head) - len(head.lstrip())), text.count("\n", 0, end - 1), name))
            start = end
        return found

    @staticmethod
    def top_level_braces(text):
        at = text.find("{")
        while at >= 0:
            yield at
            at = text.find("{", call_end(text, at))

    @staticmethod
    def name_of(head):
        """Of a function, from what stands before its body; None: it is no function."""
        head = re.split(r"[;}]", head)[-1]
        head = re.sub(r"__attribute__\s*\(\(.*?\)\)\s*", " ", head, flags=re.DOTALL)
        if "=" in head or not head.rstrip().endswith(")"):
            return None
        for found in re.finditer(r"\b([A-Za-z_]\w*)\s*\(", head):
            if found[1] not in KEYWORDS:
                return found[1]
        return None

    def function_at(self, line):
        inside = [f for f in self.functions if f[0] <= line <= f[1]]
        return inside[-1] if inside else (line, line, TOP)

    def find_operations(self):
        """(line, function, field, operation) of each."""
        for found in HELPER.finditer(self.code):
            line = self.code.count("\n", 0, found.start())
            function = self.function_at(line)[2]
            if self.path == HELPERS and HELPER.match(function + "("):
                continue
            yield line, function, field_of(arguments(self.code, found.end() - 1)[0]), f"{found[1]}_{found[2]}"
        for found in BUILTIN.finditer(self.code):
            line = self.code.count("\n", 0, found.start())
            function = self.function_at(line)[2]
            name = found[1] or found[2]
            if name == "init" or self.path == HELPERS and HELPER.match(function + "("):
                continue
            if found[0].startswith("atomic_") and not name.endswith("_explicit") and "fence" not in name and "is_lock_free" not in name:
                yield line, function, field_of(arguments(self.code, found.end() - 1)[0]), name + "_seq_cst"
                continue
            orders = [a or b.lower() for a, b in ORDER.findall(self.code[found.start():call_end(self.code, found.end() - 1)])]
            kind = next((k for k, names in KINDS.items() if any(n in name for n in names)), name)
            field = "" if "fence" in name else field_of(arguments(self.code, found.end() - 1)[0])
            yield line, function, field or "fence", f"{kind}_{orders[0] if orders else 'seq_cst'}"

    def statement(self, line):
        """First and last line of the statement that `line` is in."""
        end = re.compile(r"[;{}:]\s*$|^\s*#")
        first = last = line
        while first > 0 and self.code_lines[first - 1].strip() and not end.search(self.code_lines[first - 1]):
            first -= 1
        while last + 1 < len(self.code_lines) and not re.search(r"[;{}]\s*$", self.code_lines[last]):
            last += 1
        return first, last

    def comment_before(self, line):
        texts = [text for first, last, text in self.comments if last == line - 1 and not self.code_lines[first].strip()]
        return texts[0] if texts else ""

    def comments_of(self, line):
        """What is said of an operation: in its statement, before it, before its function."""
        first, last = self.statement(line)
        texts = [text for a, b, text in self.comments if first <= b and a <= last]
        return texts + [self.comment_before(first), self.comment_before(self.function_at(line)[0])]


KINDS = {"cas": ["compare_exchange"], "add": ["fetch_add"], "sub": ["fetch_sub"], "exchange": ["exchange"], "load": ["load"],
         "store": ["store"], "fence": ["fence"]}


def short(path):
    return path[len("core/"):] if path.startswith("core/") else path


def document_rows(text):
    """(line, (file, function, field, operation), why) of each row; and what looks like a row of such a table and is none."""
    rows, bad, in_table = [], [], False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("|"):
            in_table = False
            continue
        if re.match(r"\|\s*function\s*\|\s*field\s*\|", line):
            in_table = True
        elif in_table and not re.fullmatch(r"\|[\s:|-]+\|", line):
            found = ROW.match(line)
            if found:
                rows.append((number, (found[1], found[2], found[3], found[4]), found[5]))
            else:
                bad.append((number, line))
    return rows, bad


def split_operation(operation):
    found = re.fullmatch(rf"(\w+?)_({ORDERS})", operation)
    return (found[1], found[2]) if found else (operation, "")


def row_for(key, why="..."):
    return f"| `{key[0]}: {key[1]}` | `{key[2]}` | `{key[3]}` | {why} |"


def operations_of(files):
    """key: [(path, line)]"""
    found = {}
    for source in files:
        for line, function, field, operation in source.operations:
            found.setdefault((short(source.path), function, field, operation), []).append((source.path, line + 1))
    return found


def compare(operations, text):
    """Code against tables, both ways."""
    rows, bad = document_rows(text)
    known = {}
    for number, line in bad:
        yield f"{DOCUMENT}:{number}: not a row (expected {row_for(('FILE', 'FUNCTION', 'FIELD', 'OPERATION'))})"
    for number, key, why in rows:
        if key in known:
            yield f"{DOCUMENT}:{number}: the same row as line {known[key]}"
        known[key] = number
        if len(re.sub(r"\W", "", why)) < 3:
            yield f"{DOCUMENT}:{number}: the row says nothing: with what does it pair, or why is relaxed enough?"
    missing = {key: at for key, at in operations.items() if key not in known}
    stale = {key: number for key, number in known.items() if key not in operations}
    for key, at in sorted(missing.items(), key=lambda item: item[1]):
        where = f"{at[0][0]}:{at[0][1]}: "
        kind, order = split_operation(key[3])
        other = [k for k in stale if k[:3] == key[:3] and split_operation(k[3])[0] == kind]
        if other:
            yield (f"{where}{key[1]} does {kind} on {key[2]} as {order}, {DOCUMENT}:{stale[other[0]]} says "
                   f"{split_operation(other[0][3])[1]}: if the code is right, say why in the row, and write {key[3]}")
            del stale[other[0]]
        else:
            yield f"{where}no row in {DOCUMENT}: put into the table of its field\n    {row_for(key)}"
    for key, number in stale.items():
        yield f"{DOCUMENT}:{number}: there is no {key[3]} of {key[2]} in {key[1]}() of {key[0]}: delete the row or correct it"


def partner_problems(files, functions):
    for source in files:
        for line, function, field, operation in source.operations:
            where = f"{source.path}:{line + 1}: "
            texts = source.comments_of(line)
            if split_operation(operation)[1] != "relaxed" and not any(REFERS.search(text) for text in texts):
                yield f"{where}{operation} of {field} in {function} without a comment: /* partner: function() */"
        for first, _, text in source.comments:
            found = PARTNER.search(text)
            for name in CALL.findall(text[found.start():]) if found else []:
                if name not in functions:
                    yield f"{source.path}:{first + 1}: partner {name}() does not exist"


def name_problems(text, functions):
    for number, _, why in document_rows(text)[0]:
        for name in CALL.findall(why):
            if name not in functions:
                yield f"{DOCUMENT}:{number}: there is no {name}()"


def model_problems(models, by_file):
    """models: {path: text}; by_file: {path: names of functions}"""
    for path, text in sorted(models.items()):
        head = text.split("*/")[0]
        claim = re.search(r"^ \* C: (.*?)\.\n \*?", head + "\n *\n", re.DOTALL | re.MULTILINE)
        if not claim:
            yield f"{path}: its head does not say what it models (C: core/FILE.c function, function; core/OTHER.c function.)"
            continue
        for part in re.sub(r"\n \*", " ", claim[1]).split(";"):
            words = part.strip().split(None, 1)
            if len(words) < 2 or words[0] not in by_file:
                yield f"{path}: C: {part.strip()}: expected core/FILE.c and functions"
                continue
            for name in (n.strip() for n in words[1].split(",")):
                if name not in by_file[words[0]]:
                    yield f"{path}: there is no {name}() in {words[0]}"


def everything():
    files = [Source(path, read(path)) for path in sources()]
    functions = {name for source in files for _, _, name in source.functions}
    for header in (source for source in files if source.path.endswith(".h")):  # what the host calls: declared only
        functions |= set(re.findall(r"\b(rctx_\w+)\s*\(", header.code))
    models = {}
    for name in sorted(os.listdir(os.path.join(ROOT, "tests/model"))):
        if name.endswith(".pml"):
            models[f"tests/model/{name}"] = read(f"tests/model/{name}")
    return files, functions, models


def problems(files, functions, models, text):
    by_file = {source.path: {name for _, _, name in source.functions} for source in files}
    yield from compare(operations_of(files), text)
    yield from partner_problems(files, functions)
    yield from name_problems(text, functions)
    yield from model_problems(models, by_file)


# ---- self test ---------------------------------------------------------------------------------------------------------

SAMPLE = """
static int hint(struct thing *t) { return load_relaxed(&t->count); }
#define TWICE(t) store_release(&(t)->flag, 1) /* partner: look() */

/* Partner: TWICE(). */
static bool look(struct thing *t) {
  uint32_t s = load_acquire(&t->words[t->at].flag); // a comment with store_release(&t->x, 1)
  if (!cas_acq_rel(&t->count, &s, /* partner: hint() */
                   load_relaxed(&t->count) + 1))
    return __atomic_load_n(&t->flag, __ATOMIC_SEQ_CST); /* partner: TWICE() */
  atomic_thread_fence(memory_order_release); /* partner: hint() */
  return load_acquire(state_of(t)) == 1;     /* as above */
}
"""
SAMPLE_DOCUMENT = """
| function | field | operation | why |
|---|---|---|---|
| `thing.c: hint` | `count` | `load_relaxed` | a guess |
| `thing.c: TWICE` | `flag` | `store_release` | look() |
| `thing.c: look` | `words.flag` | `load_acquire` | TWICE() |
| `thing.c: look` | `count` | `cas_acq_rel` | hint() |
| `thing.c: look` | `count` | `load_relaxed` | a guess |
| `thing.c: look` | `flag` | `load_seq_cst` | why not |
| `thing.c: look` | `fence` | `fence_release` | why not |
| `thing.c: look` | `state_of` | `load_acquire` | why not |
"""
SAMPLE_MODEL = "/*\n * thing: x\n *\n * C: core/thing.c hint,\n * look.\n */\n"


def self_test():
    """Each planted difference gives a message with its text in it, and the sample as it is gives none."""

    def found(code=SAMPLE, document=SAMPLE_DOCUMENT, model=SAMPLE_MODEL):
        source = Source("core/thing.c", code)
        names = {name for _, _, name in source.functions}
        return list(problems([source], names, {"tests/model/thing.pml": model}, document))

    row = "| `thing.c: hint` | `count` | `load_relaxed` | a guess |\n"
    plants = [
        ("a new operation", found(code=SAMPLE.replace("return 0", "return 1") + "void f(int *p) { add_relaxed(p, 1); }\n"), "no row"),
        ("an operation gone", found(code=SAMPLE.replace("load_relaxed(&t->count);", "0;")), "there is no load_relaxed"),
        ("a weaker order", found(code=SAMPLE.replace("load_acquire(&t->words", "load_relaxed(&t->words")), "says acquire"),
        ("a stronger order", found(code=SAMPLE.replace("return load_relaxed", "/* partner: look() */ return load_seq_cst")),
         "says relaxed"),
        ("an order of a builtin", found(code=SAMPLE.replace("__ATOMIC_SEQ_CST", "__ATOMIC_RELAXED")), "says seq_cst"),
        ("a builtin without an order", found(code=SAMPLE.replace("return load_relaxed(", "return atomic_load(")), "load_seq_cst"),
        ("a fence gone", found(code=SAMPLE.replace("atomic_thread_fence(memory_order_release);", "")), "fence_release"),
        ("a row gone", found(document=SAMPLE_DOCUMENT.replace(row, "")), "no row"),
        ("a row too many", found(document=SAMPLE_DOCUMENT + row.replace("hint", "other")), "there is no load_relaxed"),
        ("a row twice", found(document=SAMPLE_DOCUMENT.replace(row, row + row)), "the same row"),
        ("a broken row", found(document=SAMPLE_DOCUMENT.replace("`load_relaxed` | a guess |\n", "`load relaxed` | a guess |\n", 1)),
         "not a row"),
        ("an empty reason", found(document=SAMPLE_DOCUMENT.replace("| a guess |", "| ... |", 1)), "says nothing"),
        ("a row's partner gone", found(document=SAMPLE_DOCUMENT.replace("look() |", "looks() |")), "no looks()"),
        ("no partner said", found(code=SAMPLE.replace("/* Partner: TWICE(). */", "").replace("/* partner: TWICE() */", "")),
         "without a comment"),
        ("a partner gone", found(code=SAMPLE.replace("partner: TWICE()", "partner: THRICE()")), "THRICE() does not exist"),
        ("a modelled function gone", found(model=SAMPLE_MODEL.replace("look.", "loop.")), "no loop()"),
        ("a model of nothing", found(model="/*\n * thing: x\n */\n"), "does not say"),
    ]
    failed = [f"self-test: {what} was not found; only: {messages}" for what, messages, text in plants
              if not any(text in message for message in messages)]
    failed += [f"self-test: false alarm: {message}" for message in found()]
    for message in failed:
        print(message)
    print(f"self-test: {len(plants)} planted differences, {len(failed)} not as expected")
    return 1 if failed else 0


def main():
    wanted = sys.argv[1:]
    if wanted == ["--self-test"]:
        return self_test()
    if wanted and (wanted[0] != "--list" or len(wanted) > 2):
        print(__doc__, file=sys.stderr)
        return 2
    files, functions, models = everything()
    text = read(DOCUMENT) if os.path.exists(os.path.join(ROOT, DOCUMENT)) else ""
    if wanted:
        known = {key for _, key, _ in document_rows(text)[0]}
        for key in operations_of(files):
            if key not in known and (len(wanted) == 1 or key[0].endswith(wanted[1])):
                print(row_for(key))
        return 0
    found = list(problems(files, functions, models, text))
    for problem in found:
        print(problem)
    operations = operations_of(files)
    print(f"atomics: {sum(map(len, operations.values()))} operations, {len(operations)} rows, {len(found)} problems")
    return self_test() or (1 if found else 0)


if __name__ == "__main__":
    sys.exit(main())
