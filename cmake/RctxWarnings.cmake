# rctx_warnings: for the core. rctx_warnings_basic: for tests, where Criterion's macros expand.
add_library(rctx_warnings_basic INTERFACE)
target_compile_options(rctx_warnings_basic INTERFACE
  -Wall -Wextra -Wshadow -Wpointer-arith -Wundef -Wvla $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
  $<$<BOOL:${RCTX_WERROR}>:-Werror>)
if(RCTX_SANITIZE AND CMAKE_C_COMPILER_ID STREQUAL "GNU") # gcc loses track of initialisation in instrumented code
  target_compile_options(rctx_warnings_basic INTERFACE -Wno-maybe-uninitialized)
endif()

add_library(rctx_warnings INTERFACE)
target_link_libraries(rctx_warnings INTERFACE rctx_warnings_basic)
target_compile_options(rctx_warnings INTERFACE
  -Wconversion -Wsign-conversion -Wcast-qual $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>)
