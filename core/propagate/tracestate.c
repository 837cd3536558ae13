/*
 * tracestate.c - the header tracestate of W3C Trace Context. See rctx/propagate.h.
 *
 * A list is read into an array of at most 32 members, each two texts that point into what was received, in order.
 * Writing first decides which of them stay and then copies those.
 */
#include "tracestate.h"

enum {
  MEMBERS_MAX = RCTX_TRACESTATE_MEMBERS_MAX,
  KEY_MAX = 256,
  VALUE_MAX = 256,
  TENANT_MAX = 241, /* of tenant@system, level 1 */
  SYSTEM_MAX = 14,
  LONG_MEMBER = 128 /* a longer one goes first */
};

struct member {
  struct rctx_text key, value;
  bool left_out;
};

struct list {
  struct member members[MEMBERS_MAX];
  unsigned count;
  bool joined;  /* a header has been read: the next one is joined to it by a comma */
  size_t bytes; /* received, with these commas */
};

/* The members stay as they are: most lists are short. */
static void begin(struct list *list) {
  list->count = 0;
  list->joined = false;
  list->bytes = 0;
}

/* ---- grammar ----------------------------------------------------------------------------------------------------- */

static bool is_letter_or_digit(char c) { return is_lower(c) || is_digit(c); }

/* Of a key behind its first character, without the '@' that level 2 allows anywhere there. */
static bool is_key_char(char c) { return is_letter_or_digit(c) || c == '_' || c == '-' || c == '*' || c == '/'; }

static enum rctx_fault check_key(struct rctx_text key) {
  if (key.length == 0) return RCTX_FAULT_SYNTAX;
  if (key.length > KEY_MAX) return RCTX_FAULT_TOO_LONG;
  if (!is_letter_or_digit(*key.at)) return RCTX_FAULT_SYNTAX;
  for (size_t i = 1; i < key.length; i++) {
    if (!is_key_char(key.at[i]) && key.at[i] != '@') return RCTX_FAULT_SYNTAX;
  }
  return RCTX_FAULT_NONE;
}

static enum rctx_fault check_value(struct rctx_text value) {
  if (value.length == 0) return RCTX_FAULT_SYNTAX;
  if (value.length > VALUE_MAX) return RCTX_FAULT_TOO_LONG;
  for (size_t i = 0; i < value.length; i++) {
    char c = value.at[i];
    if (c < ' ' || c > '~' || c == ',' || c == '=') return RCTX_FAULT_SYNTAX;
  }
  return value.at[value.length - 1] == ' ' ? RCTX_FAULT_SYNTAX : RCTX_FAULT_NONE;
}

static bool is_name(struct rctx_text name, size_t length_max) {
  if (name.length == 0 || name.length > length_max) return false;
  for (size_t i = 0; i < name.length; i++) {
    if (!is_key_char(name.at[i])) return false;
  }
  return true;
}

/* A key that level 1 takes, too: name, or tenant@system, where only a tenant may begin with a digit. */
static bool is_key_for_all(struct rctx_text key) {
  const char *at = find_char(key, '@');
  if (!at) return is_name(key, KEY_MAX) && is_lower(*key.at);
  struct rctx_text tenant = text_between(key.at, at), system = text_between(at + 1, key.at + key.length);
  return is_name(tenant, TENANT_MAX) && is_letter_or_digit(*tenant.at) && is_name(system, SYSTEM_MAX) &&
         is_lower(*system.at);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static struct member *find_key(struct list *list, struct rctx_text key) {
  for (unsigned i = 0; i < list->count; i++) {
    if (same_text(list->members[i].key, key)) return &list->members[i];
  }
  return NULL;
}

static enum rctx_fault read_member(struct list *list, struct rctx_text item) {
  const char *equals = find_char(item, '=');
  if (!equals) return RCTX_FAULT_SYNTAX;
  struct rctx_text key = text_between(item.at, equals), value = text_between(equals + 1, item.at + item.length);
  enum rctx_fault fault = check_key(key);
  if (fault == RCTX_FAULT_NONE) fault = check_value(value);
  if (fault != RCTX_FAULT_NONE) return fault;
  if (list->count == MEMBERS_MAX) return RCTX_FAULT_LIMIT;
  if (find_key(list, key)) return RCTX_FAULT_DUPLICATE;
  list->members[list->count++] = (struct member){key, value, false};
  return RCTX_FAULT_NONE;
}

/* Append the members of one header. */
static enum rctx_fault read_text(struct list *list, struct rctx_text text) {
  struct rctx_text rest = text, item;
  size_t comma = list->joined ? 1 : 0;
  if (text.length > RCTX_TRACESTATE_BYTES_MAX || list->bytes + comma + text.length > RCTX_TRACESTATE_BYTES_MAX)
    return RCTX_FAULT_LIMIT;
  list->bytes += comma + text.length;
  list->joined = true;
  while (take_item(&rest, ',', &item)) {
    item = trimmed(item);
    if (item.length == 0) continue;
    enum rctx_fault fault = read_member(list, item);
    if (fault != RCTX_FAULT_NONE) return fault;
  }
  return RCTX_FAULT_NONE;
}

static enum rctx_fault read_headers(struct list *list, const struct rctx_headers *headers) {
  struct rctx_cursor cursor = {NULL, 0};
  struct rctx_text value;
  while (rctx__next_named(headers, &cursor, RCTX_HEADER_TRACESTATE, &value)) {
    enum rctx_fault fault = read_text(list, value);
    if (fault != RCTX_FAULT_NONE) return fault;
  }
  return RCTX_FAULT_NONE;
}

int rctx_tracestate_check(struct rctx_text state, enum rctx_fault *fault) {
  struct list list;
  begin(&list);
  if (misused(is_broken(state), NEED_TEXT)) return refuse(fault, RCTX_FAULT_EMPTY);
  return refuse(fault, read_text(&list, state));
}

int rctx_tracestate_find(struct rctx_text state, struct rctx_text key, struct rctx_text *value) {
  struct list list;
  begin(&list);
  if (misused(is_broken(state) || is_broken(key), NEED_TEXT) ||
      misused(value == NULL, "value is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  if (read_text(&list, state) != RCTX_FAULT_NONE) return -EINVAL;
  const struct member *member = find_key(&list, key);
  if (!member) return -ENOENT;
  *value = member->value;
  return 0;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static size_t length_of(const struct member *member) { return member->key.length + 1 + member->value.length; }

/* Length of the list: members that stay, and the commas between them. */
static size_t total_of(const struct list *list) {
  size_t sum = 0;
  for (unsigned i = 0; i < list->count; i++) {
    if (!list->members[i].left_out) sum += length_of(&list->members[i]) + (sum > 0);
  }
  return sum;
}

/* Leave out members that are longer than that, from the right, until the list fits. The first `kept` stay. */
static void shorten(struct list *list, size_t length_max, size_t longer_than, unsigned kept) {
  for (unsigned i = list->count; i-- > kept && total_of(list) > length_max;) {
    if (length_of(&list->members[i]) > longer_than) list->members[i].left_out = true;
  }
}

static char *put(char *at, struct rctx_text text) {
  if (text.length > 0) memcpy(at, text.at, text.length);
  return at + text.length;
}

static int write_list(const struct list *list, char *buf) {
  char *at = buf;
  for (unsigned i = 0; i < list->count; i++) {
    const struct member *member = &list->members[i];
    if (member->left_out) continue;
    if (at > buf) *at++ = ',';
    at = put(at, member->key);
    *at++ = '=';
    at = put(at, member->value);
  }
  *at = 0;
  return (int)(at - buf);
}

/* The members that fit, the first `kept` of them by all means. Says so if others had to go. */
static int write_what_fits(struct list *list, unsigned kept, char *buf, size_t size, enum rctx_fault *why) {
  size_t before = total_of(list);
  shorten(list, size - 1, LONG_MEMBER, kept);
  shorten(list, size - 1, 0, kept);
  if (total_of(list) < before) *why = RCTX_FAULT_LIMIT;
  return total_of(list) < size ? write_list(list, buf) : -ENOSPC;
}

/* Put it first; an older one of its key leaves, or for want of a place the last, and says so. */
static void put_first(struct list *list, struct rctx_text key, struct rctx_text value, enum rctx_fault *why) {
  struct member *old = find_key(list, key);
  unsigned moved = old ? (unsigned)(old - list->members) : list->count;
  if (moved == MEMBERS_MAX) {
    moved--;
    *why = RCTX_FAULT_LIMIT;
  } else if (!old) {
    list->count++;
  }
  memmove(&list->members[1], &list->members[0], moved * sizeof list->members[0]);
  list->members[0] = (struct member){key, value, false};
}

int rctx_tracestate_update(struct rctx_text state, struct rctx_text key, struct rctx_text value, char *buf, size_t size,
                           enum rctx_fault *fault) {
  struct list list;
  begin(&list);
  if (misused(is_broken(state) || is_broken(key) || is_broken(value), NEED_TEXT) ||
      misused(buf == NULL && size > 0, "buf is NULL")) {
    return refuse(fault, RCTX_FAULT_EMPTY);
  }
  refuse(fault, RCTX_FAULT_NONE);
  if (key.length > 0 && (!is_key_for_all(key) || check_value(value) != RCTX_FAULT_NONE)) return -EINVAL;
  enum rctx_fault why = read_text(&list, state);
  if (why != RCTX_FAULT_NONE) list.count = 0;
  if (key.length > 0) put_first(&list, key, value, &why);
  int length = size > 0 ? write_what_fits(&list, key.length > 0, buf, size, &why) : -ENOSPC;
  refuse(fault, why);
  return length;
}

int rctx__tracestate_join(const struct rctx_headers *headers, char *buf, size_t size, enum rctx_fault *fault) {
  struct list list;
  begin(&list);
  enum rctx_fault why = read_headers(&list, headers);
  if (why != RCTX_FAULT_NONE) list.count = 0;
  int length = write_what_fits(&list, 0, buf, size, &why);
  rctx__count_fault(RCTX_HEADER_TRACESTATE, why);
  refuse(fault, why);
  return length;
}
