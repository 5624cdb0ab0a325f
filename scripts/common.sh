# shellcheck shell=bash
# What the scripts share. To be sourced, from the repository's root.

say() { printf '\n==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# version_at_least HAVE WANT: whether HAVE is WANT or newer.
version_at_least() {
    [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]
}

# Says what to install where something is missing that every build needs.
require_build_tools() {
    command -v cargo >/dev/null ||
        fail "cargo was not found. Install Rust from https://rustup.rs and open a new shell."
    local want have
    want=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    have=$(rustc --version | cut -d ' ' -f 2)
    version_at_least "${have%%-*}" "$want" ||
        fail "Rust $have is too old; $want or newer is needed (with rustup: 'rustup update stable')."
    # SQLite is C and the vector index is C++; both are compiled from source.
    if ! command -v "${CXX:-c++}" >/dev/null || ! command -v "${CC:-cc}" >/dev/null; then
        fail "a C and C++ compiler was not found. Debian/Ubuntu: 'apt-get install build-essential'; Fedora: 'dnf install gcc-c++'; macOS: 'xcode-select --install'."
    fi
}
