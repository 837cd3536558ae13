// Throw-away: gives the library something to build until the file that owns this function is there.
#include "rctx/base.h"

const char *rctx_version_string(void) { return RCTX_VERSION_STRING; }
