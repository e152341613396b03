# cmake -DGIT=... -DSOURCE_DIR=... -DHEADER=... -P git_commit.cmake
# Writes HEADER with ASPLASH_GIT_COMMIT: the commit of SOURCE_DIR, "-dirty" appended for a changed tree,
# "unknown" where SOURCE_DIR is not the top of a git work tree (a tarball, also one unpacked inside another
# repository) or git is missing. The file is left alone while its content stays the same.
set(commit "unknown")
if(GIT)
  # Without optional locks: a build must never get in the way of a git command of the user.
  set(git "${GIT}" --no-optional-locks -C "${SOURCE_DIR}")
  execute_process(COMMAND ${git} rev-parse --show-toplevel
    OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  get_filename_component(top "${top}" REALPATH)
  get_filename_component(source_dir "${SOURCE_DIR}" REALPATH)
  if(NOT failed AND top STREQUAL source_dir)
    execute_process(COMMAND ${git} rev-parse HEAD
      OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed)
      set(commit "${head}")
      execute_process(COMMAND ${git} status --porcelain --untracked-files=no
        OUTPUT_VARIABLE changes ERROR_QUIET)
      if(changes)
        string(APPEND commit "-dirty")
      endif()
    endif()
  endif()
endif()
set(content "#pragma once\n#define ASPLASH_GIT_COMMIT \"${commit}\"\n")
set(before "")
if(EXISTS "${HEADER}")
  file(READ "${HEADER}" before)
endif()
if(NOT before STREQUAL content)
  file(WRITE "${HEADER}" "${content}")
endif()
