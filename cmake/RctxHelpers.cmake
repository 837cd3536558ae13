# Helpers of the build: rctx_core, rctx_part, rctx_jemalloc, rctx_fuzz. rctx_test is in tests/CMakeLists.txt.

# rctx_core(NAME OBJECT|STATIC): RCTX_SOURCES with the flags they all need.
function(rctx_core name kind)
  add_library(${name} ${kind} ${RCTX_SOURCES})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON C_STANDARD 11 C_EXTENSIONS ON)
  target_include_directories(${name}
    PUBLIC "${PROJECT_SOURCE_DIR}/include" PRIVATE "${PROJECT_SOURCE_DIR}/core" "${PROJECT_SOURCE_DIR}")
  target_compile_definitions(${name} PRIVATE _GNU_SOURCE=)
  if(RCTX_PROBES AND RCTX_HAVE_SDT)
    target_compile_definitions(${name} PRIVATE RCTX_PROBES=1)
  endif()
  # no-delete-null-pointer-checks: parameters are declared nonnull, and a NULL that comes anyway must be noticed.
  # exceptions: a C++ callback may throw through us, and pthread_exit() unwinds.
  # no-tree-slp-vectorize: a wide copy of what was just stored in parts waits for the stores (8 % of derive_value_8).
  target_compile_options(${name} PRIVATE
    -fno-delete-null-pointer-checks -fno-semantic-interposition -fexceptions -fno-tree-slp-vectorize)
  target_link_libraries(${name} PUBLIC PkgConfig::URCU_BP Threads::Threads rctx_sanitizers PRIVATE rctx_warnings)
endfunction()

# rctx_part(OPTION DIRECTORY): adds the directory if the option is on and the directory is there.
function(rctx_part option directory)
  if(${option} AND EXISTS "${PROJECT_SOURCE_DIR}/${directory}/CMakeLists.txt")
    add_subdirectory("${PROJECT_SOURCE_DIR}/${directory}")
  endif()
endfunction()

# rctx_jemalloc: for programs (tests, benchmarks, the gateway), never for the library, which finds mallocx weakly.
add_library(rctx_jemalloc INTERFACE)
if(RCTX_JEMALLOC AND (RCTX_TESTS OR RCTX_BENCH OR RCTX_GATEWAY))
  find_library(RCTX_JEMALLOC_LIBRARY jemalloc REQUIRED)
  # no-as-needed: nothing refers to it by name, and it must be loaded all the same.
  target_link_libraries(rctx_jemalloc INTERFACE
    "-Wl,--push-state,--no-as-needed" "${RCTX_JEMALLOC_LIBRARY}" "-Wl,--pop-state")
endif()

# rctx_fuzz(NAME file...): one LLVMFuzzerTestOneInput for libFuzzer and AFL++ alike (afl-clang-fast takes the flag too).
function(rctx_fuzz name)
  add_executable(${name} ${ARGN} "${PROJECT_SOURCE_DIR}/fuzz/pulse.c")
  set_target_properties(${name} PROPERTIES C_STANDARD 11 C_EXTENSIONS ON)
  target_compile_definitions(${name} PRIVATE _GNU_SOURCE=)
  target_link_libraries(${name} PRIVATE rctx_testing rctx_warnings_basic)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer "LINKER:--wrap=LLVMFuzzerTestOneInput") # see pulse.c
endfunction()
