/*
 * rctx/value.h - request-scoped values under typed keys.
 *
 * A key is identified by the address of its rctx_key object, never by name or number. A value is one pointer-sized slot.
 * A lookup finds the nearest binding and costs the same at depth 1 and at depth 64; a miss is one bit test as a rule.
 * Values never change and stay readable after the context has ended, until it is gone. A stored NULL is a value: it
 * shadows. Values are for data that travels with a request (trace id, user, tenant), not for optional parameters: a key is
 * declared with its purpose, and one that can not be stated in those terms is a parameter (docs/guide/values.md).
 *
 *   RCTX_KEY(user_id, const char *, "who asks: for access checks")          // file scope
 *   RCTX_SCOPED rctx *c = user_id_with(parent, "ann");
 *   const char *who;
 *   if (user_id_get(c, &who)) ...
 */
#ifndef RCTX_VALUE_H
#define RCTX_VALUE_H

#include <rctx/context.h>
#include <string.h>

RCTX_BEGIN_DECLS

/** struct rctx_key - a key. Must outlive every context that holds a value under it; its address is its identity, so a
 *  key object that is freed and another made at the same address are the same key to contexts still holding the first. */
struct rctx_key {
  const char *name;                                           /* for people */
  size_t (*print)(const void *value, char *buf, size_t size); /* as snprintf; NULL: shown as its address */
  void (*destroy)(void *value);                               /* default destructor for typed values, or NULL */
  const char *purpose;                                        /* why it travels with requests; NULL: not stated */
  unsigned flags;                                             /* enum rctx_key_flags */
};

enum rctx_key_flags {
  RCTX_KEY_LOGGABLE = 1,  /* rctx_log_format() writes its values */
  RCTX_KEY_NUMBER = 2,    /* print() gives a JSON number (or true, false): not quoted there */
  RCTX_KEY_PROPAGATED = 4 /* its values leave the process, as baggage (propagate.h). The others never do */
};

/** struct rctx_value - one binding for rctx_with_values() and rctx_spec. destroy: NULL, or called exactly once with the
 *  value: when the context that added it is gone, on the thread that released it, no library lock held; or before return
 *  when the derivation could not keep it (no memory). */
struct rctx_value {
  const struct rctx_key *key;
  void *value;
  void (*destroy)(void *value);
};

/** rctx_with_value - a child that binds one value. Ends with its parent; to be ended like any other (ending it ends what
 *  was derived from it). NULL key: as any NULL argument. Cost: a node and, every 16 values in a chain, one block. */
RCTX_API rctx *rctx_with_value(const rctx *parent, const struct rctx_key *key, void *value)
    RCTX_NONNULL(1, 2) RCTX_DERIVES;

/** rctx_with_values - several in one derive. @values: borrowed array; what its elements own is transferred. The later of
 *  two bindings of one key shadows the earlier. */
RCTX_API rctx *rctx_with_values(const rctx *parent, const struct rctx_value *values, size_t nvalues)
    RCTX_NONNULL(1) RCTX_DERIVES;

#ifdef RCTX_LEAK_SITES
#define rctx_with_value(...) RCTX__MADE("rctx_with_value", rctx_with_value(__VA_ARGS__))
#define rctx_with_values(...) RCTX__MADE("rctx_with_values", rctx_with_values(__VA_ARGS__))
#endif

/** rctx_get - look a key up. Returns true and writes the value (which may be NULL) if it is bound here or above. Any
 *  thread; no store, no lock; iterative. */
RCTX_API bool rctx_get(const rctx *ctx, const struct rctx_key *key, void **value) RCTX_NONNULL(1, 2, 3);

/** rctx_each_value - call fn for each visible binding, nearest first, shadowed ones left out, until it returns false.
 *  Returns how many times fn was called. For logs. */
RCTX_API size_t rctx_each_value(const rctx *ctx, bool (*fn)(const struct rctx_key *key, void *value, void *arg),
                                void *arg) RCTX_NONNULL(1, 2);

/** rctx_alloc - size bytes aligned to max_align_t that live as long as @ctx: freed with it, never before. From the
 *  context's arena: as a rule a pointer bump. Returns NULL when memory has run out, or on a root. One thread at a time per
 *  context. */
RCTX_API void *rctx_alloc(rctx *ctx, size_t size) RCTX_NONNULL(1);

/*
 * Typed keys. type is any type of at most pointer size; purpose is a string for people: why it travels with the request.
 *   RCTX_KEY(name, type, purpose)                 key and functions, private to one .c file
 *   RCTX_KEY_LOGGED(name, type, purpose)          the same; its values are part of every log line (log.h)
 *   RCTX_KEY_OWNED(name, type, destroy, purpose)  each value is passed to destroy(void *) once, when its context is gone
 *   RCTX_KEY_FULL(name, type, destroy, flags, purpose)  all that there is to say
 *   RCTX_KEY_DECLARE(name, type)                  in a header, for a key shared by several files ...
 *   RCTX_KEY_DEFINE(name, type, purpose)          ... defined in one of them
 *   RCTX_KEY_DEFINE_FULL(name, type, destroy, flags, purpose)
 * They generate name_key, name_with(parent, v), name_get(ctx, &v) and name_value(v) for arrays of values. Strings and
 * integers print as such, in logs and rctx_describe(); other types by their address. In the first, third and sixth the
 * purpose may be left out where it goes without saying, as in tests.
 */
#define RCTX_KEY(name, ...) RCTX__2_OR_3(__VA_ARGS__, RCTX__KEY_3, RCTX__KEY_2, 0)(name, __VA_ARGS__)
#define RCTX_KEY_LOGGED(name, type, purpose) RCTX_KEY_FULL(name, type, NULL, RCTX_KEY_LOGGABLE, purpose)
#define RCTX_KEY_OWNED(name, type, ...)                                                                                \
  RCTX__2_OR_3(__VA_ARGS__, RCTX__OWNED_3, RCTX__OWNED_2, 0)(name, type, __VA_ARGS__)
#define RCTX_KEY_FULL(name, type, destroy_fn, flags, purpose)                                                          \
  static RCTX__KEY(name, type, destroy_fn, flags, purpose);                                                            \
  RCTX__KEY_FUNCTIONS(name, type)
#define RCTX_KEY_DECLARE(name, type)                                                                                   \
  extern const struct rctx_key name##_key;                                                                             \
  RCTX__KEY_FUNCTIONS(name, type)
#define RCTX_KEY_DEFINE(name, ...) RCTX__2_OR_3(__VA_ARGS__, RCTX__DEFINE_3, RCTX__DEFINE_2, 0)(name, __VA_ARGS__)
#define RCTX_KEY_DEFINE_FULL(name, type, destroy_fn, flags, purpose) RCTX__KEY(name, type, destroy_fn, flags, purpose);

#define RCTX__2_OR_3(a, b, chosen, ...) chosen
#define RCTX__KEY_2(name, type) RCTX_KEY_FULL(name, type, NULL, 0, NULL)
#define RCTX__KEY_3(name, type, purpose) RCTX_KEY_FULL(name, type, NULL, 0, purpose)
#define RCTX__OWNED_2(name, type, destroy_fn) RCTX_KEY_FULL(name, type, destroy_fn, 0, NULL)
#define RCTX__OWNED_3(name, type, destroy_fn, purpose) RCTX_KEY_FULL(name, type, destroy_fn, 0, purpose)
#define RCTX__DEFINE_2(name, type) RCTX_KEY_DEFINE_FULL(name, type, NULL, 0, NULL)
#define RCTX__DEFINE_3(name, type, purpose) RCTX_KEY_DEFINE_FULL(name, type, NULL, 0, purpose)
#define RCTX__KEY(name, type, destroy_fn, flags, purpose)                                                              \
  const struct rctx_key name##_key = {#name, RCTX__PRINTER(type), (destroy_fn), purpose,                               \
                                      (unsigned)(flags) | RCTX__NUMBER(type)}

#define RCTX__KEY_FUNCTIONS(name, type)                                                                                \
  __attribute__((unused)) static inline struct rctx_value name##_value(type value) {                                   \
    struct rctx_value bound = {&name##_key, NULL, name##_key.destroy};                                                 \
    RCTX__FITS(sizeof(type) <= sizeof(void *), "values are at most pointer-sized");                                    \
    memcpy(&bound.value, &value, sizeof value);                                                                        \
    return bound;                                                                                                      \
  }                                                                                                                    \
  __attribute__((unused)) static inline rctx *name##_with(const rctx *parent, type value) {                            \
    struct rctx_value bound = name##_value(value);                                                                     \
    return rctx_with_values(parent, &bound, 1);                                                                        \
  }                                                                                                                    \
  __attribute__((unused)) static inline bool name##_get(const rctx *ctx, __typeof__(type) *value) {                    \
    void *slot;                                                                                                        \
    if (!rctx_get(ctx, &name##_key, &slot)) return false;                                                              \
    memcpy(value, &slot, sizeof *value);                                                                               \
    return true;                                                                                                       \
  }

RCTX_API size_t rctx__print_string(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_bool(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_i16(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_i32(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_i64(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_u16(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_u32(const void *value, char *buf, size_t size);
RCTX_API size_t rctx__print_u64(const void *value, char *buf, size_t size);
#ifdef __cplusplus
} /* templates have no C linkage */
template <typename T> struct rctx__printing {
  static constexpr decltype(&rctx__print_string) print = nullptr;
  static constexpr unsigned number = 0;
};
#define RCTX__PRINTING(type_, print_, number_)                                                                         \
  template <> struct rctx__printing<type_> {                                                                           \
    static constexpr decltype(&rctx__print_string) print = (print_);                                                   \
    static constexpr unsigned number = (number_);                                                                      \
  };
RCTX__PRINTING(char *, rctx__print_string, 0)
RCTX__PRINTING(const char *, rctx__print_string, 0)
RCTX__PRINTING(bool, rctx__print_bool, RCTX_KEY_NUMBER)
RCTX__PRINTING(short, rctx__print_i16, RCTX_KEY_NUMBER)
RCTX__PRINTING(unsigned short, rctx__print_u16, RCTX_KEY_NUMBER)
RCTX__PRINTING(int, rctx__print_i32, RCTX_KEY_NUMBER)
RCTX__PRINTING(unsigned, rctx__print_u32, RCTX_KEY_NUMBER)
RCTX__PRINTING(long, sizeof(long) == 8 ? rctx__print_i64 : rctx__print_i32, RCTX_KEY_NUMBER)
RCTX__PRINTING(unsigned long, sizeof(long) == 8 ? rctx__print_u64 : rctx__print_u32, RCTX_KEY_NUMBER)
RCTX__PRINTING(long long, rctx__print_i64, RCTX_KEY_NUMBER)
RCTX__PRINTING(unsigned long long, rctx__print_u64, RCTX_KEY_NUMBER)
#undef RCTX__PRINTING
extern "C" {
#define RCTX__PRINTER(type) rctx__printing<type>::print
#define RCTX__NUMBER(type) rctx__printing<type>::number
#define RCTX__FITS static_assert
#else
#define RCTX__PRINTER(type)                                                                                            \
  _Generic((type *)0,                                                                                                  \
      char ** : rctx__print_string,                                                                                    \
      const char ** : rctx__print_string,                                                                              \
      bool * : rctx__print_bool,                                                                                       \
      short * : rctx__print_i16,                                                                                       \
      unsigned short * : rctx__print_u16,                                                                              \
      int * : rctx__print_i32,                                                                                         \
      unsigned * : rctx__print_u32,                                                                                    \
      long * : sizeof(long) == 8 ? rctx__print_i64 : rctx__print_i32,                                                  \
      unsigned long * : sizeof(long) == 8 ? rctx__print_u64 : rctx__print_u32,                                         \
      long long * : rctx__print_i64,                                                                                   \
      unsigned long long * : rctx__print_u64,                                                                          \
      default : NULL)
#define RCTX__NUMBER(type)                                                                                             \
  _Generic((type *)0,                                                                                                  \
      bool * : RCTX_KEY_NUMBER,                                                                                        \
      short * : RCTX_KEY_NUMBER,                                                                                       \
      unsigned short * : RCTX_KEY_NUMBER,                                                                              \
      int * : RCTX_KEY_NUMBER,                                                                                         \
      unsigned * : RCTX_KEY_NUMBER,                                                                                    \
      long * : RCTX_KEY_NUMBER,                                                                                        \
      unsigned long * : RCTX_KEY_NUMBER,                                                                               \
      long long * : RCTX_KEY_NUMBER,                                                                                   \
      unsigned long long * : RCTX_KEY_NUMBER,                                                                          \
      default : 0)
#define RCTX__FITS _Static_assert
#endif

RCTX_END_DECLS
#endif
