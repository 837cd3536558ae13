// The library that is linked says which version it is.
#include "support/check.h"

#include "rctx/base.h"

Test(version, is_the_headers_version) { cr_assert_str_eq(rctx_version_string(), RCTX_VERSION_STRING); }
