# SPDX-License-Identifier: Apache-2.0
# From the target `steady` to an installed library: headers, a CMake package, a pkg-config file.
include(CMakePackageConfigHelpers)

# libstdc++ gives its templates default visibility, so hidden visibility alone would still export
# their instances.
set(steady_exports ${CMAKE_CURRENT_LIST_DIR}/steady.map)
set_target_properties(steady PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                                        LINK_DEPENDS ${steady_exports})
target_link_options(steady PRIVATE LINKER:--version-script=${steady_exports})

install(TARGETS steady EXPORT Steady LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/steady DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# The shared library's own dependencies stay private, so the targets are the whole package.
set(steady_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Steady)
install(EXPORT Steady NAMESPACE Steady:: FILE SteadyConfig.cmake DESTINATION ${steady_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/SteadyConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/SteadyConfigVersion.cmake DESTINATION ${steady_package_dir})

# The program finds the library from its own place, so that an installed tree can move.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_LIBDIR BASE_DIRECTORY ${CMAKE_INSTALL_FULL_BINDIR}
           OUTPUT_VARIABLE steady_bin_to_lib)
set(CMAKE_INSTALL_RPATH $ORIGIN/${steady_bin_to_lib})

set(steady_pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
set(steady_prefix /)
cmake_path(RELATIVE_PATH steady_prefix BASE_DIRECTORY /${steady_pkgconfig_dir}
           OUTPUT_VARIABLE steady_pkgconfig_to_prefix)
configure_file(${CMAKE_CURRENT_LIST_DIR}/steady.pc.in steady.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/steady.pc DESTINATION ${steady_pkgconfig_dir})
