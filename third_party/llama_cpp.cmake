# Finds the source of the llama.cpp that the pinned llama-cpp-python was built from. Only headers are used.
set(HOBBIT_LLAMA_CPP_PYTHON_VERSION 0.3.36)

function(hobbit_find_llama_cpp out_dir)
  if(HOBBIT_LLAMA_CPP_DIR)
    set(dir ${HOBBIT_LLAMA_CPP_DIR})
  else()
    set(name llama_cpp_python-${HOBBIT_LLAMA_CPP_PYTHON_VERSION})
    set(root ${CMAKE_CURRENT_BINARY_DIR})
    if(HOBBIT_DOWNLOAD_DIR)
      set(root ${HOBBIT_DOWNLOAD_DIR})
    endif()
    string(APPEND root /${name})
    set(dir ${root}/${name}/vendor/llama.cpp)
    if(NOT EXISTS ${dir}/ggml/src/ggml-impl.h)
      hobbit_download_sdist(${root} ${name})
    endif()
  endif()
  foreach(header ggml/src/ggml-backend-impl.h ggml/src/ggml-impl.h ggml/include/ggml.h ggml/include/gguf.h)
    if(NOT EXISTS ${dir}/${header})
      message(FATAL_ERROR "hobbit_py needs ${header} of llama.cpp, not found in ${dir}: set HOBBIT_LLAMA_CPP_DIR to "
        "vendor/llama.cpp of llama-cpp-python ${HOBBIT_LLAMA_CPP_PYTHON_VERSION}'s unpacked sdist.")
    endif()
  endforeach()
  set(${out_dir} ${dir} PARENT_SCOPE)
endfunction()

# pip keeps the archive in its cache, so that only the first build downloads it. pip also asks the archive for its
# metadata, for which it needs the archive's own build requirements: as wheels, in an environment of its own.
function(hobbit_download_sdist root name)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  message(STATUS "Fetching the headers of llama-cpp-python ${HOBBIT_LLAMA_CPP_PYTHON_VERSION} with pip")
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -m pip download --quiet --disable-pip-version-check --no-deps
      --no-binary llama-cpp-python --dest ${root} llama-cpp-python==${HOBBIT_LLAMA_CPP_PYTHON_VERSION}
    RESULT_VARIABLE result ERROR_VARIABLE error)
  if(NOT EXISTS ${root}/${name}.tar.gz)
    message(FATAL_ERROR "pip could not download llama-cpp-python ${HOBBIT_LLAMA_CPP_PYTHON_VERSION}'s sdist (exit "
      "${result}): ${error}\nWithout a network, set HOBBIT_LLAMA_CPP_DIR to vendor/llama.cpp of the unpacked sdist.")
  endif()
  file(ARCHIVE_EXTRACT INPUT ${root}/${name}.tar.gz DESTINATION ${root} PATTERNS
    */vendor/llama.cpp/ggml/include/*.h */vendor/llama.cpp/ggml/src/ggml-backend-impl.h
    */vendor/llama.cpp/ggml/src/ggml-impl.h)
  file(REMOVE ${root}/${name}.tar.gz)
endfunction()
