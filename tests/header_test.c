// The headers as a program meets them: macros are expressions, structures are what the contracts say. How they compile in
// other languages and under other compilers is looked at by build/headers.py.
#include "support/check.h"

#include <rctx/rctx.h>
#include <rctx/value.h>
#include <rctx/wait.h>

#include <stdio.h>
#include <string.h>

TestSuite(header, .timeout = 60);

RCTX_KEY(private_key, int)
RCTX_KEY_DECLARE(shared_key, const char *)
RCTX_KEY_DEFINE(shared_key, const char *)

Test(header, the_version_is_one) {
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", RCTX_VERSION_MAJOR, RCTX_VERSION_MINOR, RCTX_VERSION_PATCH);
  cr_assert_str_eq(text, RCTX_VERSION_STRING);
  cr_assert_str_eq(rctx_version_string(), RCTX_VERSION_STRING);
}

static const struct rctx_cause *cause_of_this_line(void) { return RCTX_CAUSE(-EPIPE, RCTX_ORIGIN_PEER, "hung up"); }

Test(header, a_cause_is_an_expression_with_one_address) {
  const struct rctx_cause *cause = cause_of_this_line();
  cr_assert_eq(cause, cause_of_this_line());
  cr_assert_neq(cause, RCTX_CAUSE(-EPIPE, RCTX_ORIGIN_PEER, "hung up"), "another line, another address");
  cr_assert_eq(cause->code, -EPIPE);
  cr_assert_eq(cause->origin, RCTX_ORIGIN_PEER);
  cr_assert_str_eq(cause->text, "hung up");
  cr_assert_str_eq(cause->file, __FILE__);
  cr_assert_null(cause->destroy);
}

Test(header, arguments_of_macros_are_evaluated_once) {
  rctx *pair[] = {rctx_with_cancel(rctx_background()), rctx_with_cancel(rctx_background())};
  int at = 0;
  bool first = rctx_cancel(pair[at++]);
  cr_assert(first && at == 1);
  cr_assert_eq(rctx_err(pair[1]), 0);
  cr_assert_eq(rctx_cancel_with(pair[at++], -EIO, RCTX_ORIGIN_USER, "x") ? 1 : 0, 1, "an expression");
  cr_assert_eq(at, 2);
  at = 0;
  rctx_end(pair[at++]);
  rctx_end(pair[at++]);
  cr_assert_eq(at, 2);
}

Test(header, macros_stand_in_an_if_without_braces) {
  rctx *c = rctx_with_cancel(rctx_background());
  if (rctx_err(c))
    rctx_cancel(c);
  else
    rctx_cancel_with(c, -EIO, RCTX_ORIGIN_USER, "else");
  cr_assert_eq(rctx_err(c), -EIO);
  rctx_end(c);
}

Test(header, a_zeroed_node_is_a_node) {
  struct rctx_after node;
  memset(&node, 0, sizeof node);
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_leq(sizeof node, 128, "cheap to embed");
}

RCTX_KEY(address, struct rctx_after *)

Test(header, the_printers_of_typed_keys) {
  char buf[8];
  cr_assert_not_null(shared_key_key.print, "strings know how to print themselves");
  cr_assert_eq(private_key_key.print(private_key_value(-7).value, buf, sizeof buf), 2, "integers, too");
  cr_assert_str_eq(buf, "-7");
  cr_assert_null(address_key.print, "others are shown by their address");
  cr_assert_str_eq(private_key_key.name, "private_key");
  cr_assert_eq(shared_key_key.print("abc", buf, sizeof buf), 3);
  cr_assert_str_eq(buf, "abc");
  cr_assert_eq(shared_key_key.print("abcdefghijk", buf, sizeof buf), 11, "as snprintf");
  cr_assert_str_eq(buf, "abcdefg");
}

Test(header, origins_have_room_for_the_embedder) {
  cr_assert_eq(RCTX_ORIGIN_NONE, 0);
  cr_assert_geq(RCTX_ORIGIN_USER, RCTX_ORIGIN_MISUSE + 1);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  struct rctx_why why;
  rctx_cancel_with(c, -EIO, RCTX_ORIGIN_USER + 1000, "mine");
  rctx_why(c, &why);
  cr_assert_eq(why.origin, RCTX_ORIGIN_USER + 1000);
}
