/* Throw-away: gives the library something to build until the file that owns this function is there. Weak, so that the two
 * can meet for a while. */
#include "rctx/base.h"

__attribute__((weak)) const char *rctx_version_string(void) { return RCTX_VERSION_STRING; }
