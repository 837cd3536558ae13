# rctx_sanitizers: what the whole program must be compiled and linked with.
# No _LGPL_SOURCE anywhere: liburcu's inlined read side trips UBSan's alignment check and blinds TSan.
add_library(rctx_sanitizers INTERFACE)
# What only the test programs get.
add_library(rctx_coverage_exit INTERFACE)
if(RCTX_COVERAGE OR RCTX_MCDC)
  target_sources(rctx_coverage_exit INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/tests/support/coverage_exit.c")
  target_compile_definitions(rctx_coverage_exit INTERFACE $<$<BOOL:${RCTX_MCDC}>:RCTX_MCDC>)
  target_link_options(rctx_coverage_exit INTERFACE "LINKER:--wrap=_exit" "LINKER:--wrap=abort")
endif()

set(flags "")
if(RCTX_SANITIZE STREQUAL "address" OR RCTX_SANITIZE STREQUAL "fuzzer")
  # nonnull-attribute: tests hand in NULL on purpose; the library's own answer is what they check.
  set(flags -fsanitize=address,undefined -fno-sanitize=nonnull-attribute -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  if(RCTX_SANITIZE STREQUAL "fuzzer")
    list(APPEND flags -fsanitize=fuzzer-no-link) # the harness itself adds -fsanitize=fuzzer, see rctx_fuzz()
  endif()
elseif(RCTX_SANITIZE STREQUAL "fuzzer-only")
  set(flags -fsanitize=fuzzer-no-link)
elseif(RCTX_SANITIZE STREQUAL "thread")
  set(flags -fsanitize=thread -fno-omit-frame-pointer)
  target_compile_definitions(rctx_sanitizers INTERFACE RCTX_TSAN)
elseif(RCTX_SANITIZE STREQUAL "memory")
  # liburcu is not instrumented; nothing of it is inlined here, and all we read of what it writes is one int it returns.
  set(flags -fsanitize=memory -fsanitize-memory-track-origins=2 -fno-omit-frame-pointer)
elseif(RCTX_SANITIZE)
  message(FATAL_ERROR "RCTX_SANITIZE=${RCTX_SANITIZE} is unknown: address, thread, memory, fuzzer, fuzzer-only or empty")
endif()
if(RCTX_COVERAGE)
  list(APPEND flags --coverage -fprofile-update=atomic)
endif()
if(RCTX_MCDC)
  list(APPEND flags -fprofile-instr-generate -fcoverage-mapping -fcoverage-mcdc -fprofile-update=atomic)
endif()

target_compile_options(rctx_sanitizers INTERFACE ${flags})
target_link_options(rctx_sanitizers INTERFACE ${flags})
