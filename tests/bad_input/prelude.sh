# shellcheck shell=sh
# What the table's scripts may use besides the system's programs; read by shell.cpp before each of them.
#
# asplash-* are this build's programs. ASPLASH_BIN_DIR, ASPLASH_BAD_INPUT_TOOL and ASPLASH_SAMPLES come from the test.
PATH=$ASPLASH_BIN_DIR:$PATH
# Threads of libtorch that wait by spinning starve each other where tests run side by side.
export OMP_WAIT_POLICY=passive
# Root may read and write everything; without these capabilities permissions hold for root, too.
as_user() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --bounding-set=-dac_override,-dac_read_search "$@"
  else
    "$@"
  fi
}
# tool.cpp says what each of these does.
flip() { "$ASPLASH_BAD_INPUT_TOOL" flip "$@"; }
reseal() { "$ASPLASH_BAD_INPUT_TOOL" reseal "$@"; }
edit_json() { "$ASPLASH_BAD_INPUT_TOOL" edit-json "$@"; }
edit_tensors() { "$ASPLASH_BAD_INPUT_TOOL" edit-tensors "$@"; }
set_token() { "$ASPLASH_BAD_INPUT_TOOL" set-token "$@"; }
# shorten FILE BYTES: cuts so many bytes off the end.
shorten() { truncate -s "-$2" "$1"; }
