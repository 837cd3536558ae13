# make install, pkg-config, find_package(rctx).
if(RCTX_INSTALL)
  include(CMakePackageConfigHelpers)
  set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/rctx")

  install(TARGETS rctx rctx_static EXPORT rctx-targets
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(DIRECTORY include/rctx DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
  install(EXPORT rctx-targets NAMESPACE rctx:: DESTINATION "${package_dir}")

  configure_package_config_file(cmake/rctx-config.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/rctx-config.cmake"
    INSTALL_DESTINATION "${package_dir}")
  write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/rctx-config-version.cmake"
    COMPATIBILITY SameMinorVersion)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/rctx-config.cmake" "${CMAKE_CURRENT_BINARY_DIR}/rctx-config-version.cmake"
    DESTINATION "${package_dir}")

  configure_file(cmake/rctx.pc.in "${CMAKE_CURRENT_BINARY_DIR}/rctx.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/rctx.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endif()
