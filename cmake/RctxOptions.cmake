# Every option there is.
option(RCTX_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(RCTX_EXAMPLES "Build the examples" ${PROJECT_IS_TOP_LEVEL})
option(RCTX_BENCH "Build the benchmarks (C++, google-benchmark)" OFF)
option(RCTX_FUZZ "Build the fuzz harnesses (clang or AFL++)" OFF)
option(RCTX_INSTALL "Provide the install target" ${PROJECT_IS_TOP_LEVEL})
option(RCTX_CHECK "Check callers' mistakes at run time: message and abort" OFF)
option(RCTX_WERROR "Warnings are errors" OFF)
option(RCTX_COVERAGE "Instrument for gcovr" OFF)
option(RCTX_JEMALLOC "Link tests, benchmarks and gateway with jemalloc (never the library; never under a sanitizer)" ON)
option(RCTX_TEST_SHIM "Run the test bodies by tests/support/check.c instead of Criterion (always so under tsan)" OFF)
set(RCTX_TEST_WRAPPER "" CACHE STRING "Command put in front of each test program, such as valgrind")
set(RCTX_SANITIZE "" CACHE STRING "address (with undefined), thread, fuzzer (with address, undefined) or empty")
set_property(CACHE RCTX_SANITIZE PROPERTY STRINGS "" address thread fuzzer)

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()
if(RCTX_SANITIZE STREQUAL "thread")
  set(RCTX_TEST_SHIM ON) # Criterion dies at start under ThreadSanitizer
endif()
if(RCTX_SANITIZE)
  set(RCTX_JEMALLOC OFF) # the sanitizer's malloc must be the one in use
endif()
