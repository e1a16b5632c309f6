# Builds one interface package against the ROS wheels of the Python environment that runs the build, and installs it into
# that environment. The including CMakeLists.txt sets `messages` (relative paths) and `message_dependencies` (packages).

find_package(Python3 REQUIRED COMPONENTS Interpreter Development.Module NumPy)
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -c "import sys; print(sys.prefix)"
  OUTPUT_VARIABLE environment_prefix
  OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)

# The environment is the ROS prefix: CMake looks for packages there first, and ament's resource index is read from there
# (without the variable rosidl finds no type support and stops with "No 'rosidl_typesupport_c' found").
list(PREPEND CMAKE_PREFIX_PATH "${environment_prefix}")
set(ENV{AMENT_PREFIX_PATH} "${environment_prefix}")

# Type support libraries are opened by name at run time: they belong into lib/ of the environment, the Python modules
# three levels below it.
set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../../..")
set(PYTHON_INSTALL_DIR "lib/python${Python3_VERSION_MAJOR}.${Python3_VERSION_MINOR}/site-packages"
    CACHE STRING "where the Python modules go, relative to the environment")

find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
foreach(package IN LISTS message_dependencies)
  find_package(${package} REQUIRED)
endforeach()

# Python needs the C side only; the C++ generators would triple the build time.
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")

# The wheels' exported targets carry include paths of the machine they were built on, and CMake refuses paths that do
# not exist.
get_directory_property(imported_targets IMPORTED_TARGETS)
foreach(target IN LISTS imported_targets)
  if(target MATCHES "__rosidl_generator_py$")
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "")
  endif()
endforeach()

rosidl_generate_interfaces(${PROJECT_NAME} ${messages} DEPENDENCIES ${message_dependencies})
ament_export_dependencies(rosidl_default_runtime)
ament_package()
