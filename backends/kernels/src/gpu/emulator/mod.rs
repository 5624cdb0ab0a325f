//! Runs the kernels for GPUs on the CPU: they are compiled as C++ by whatever compiler is there, with `device.h` for what a GPU has and a CPU has
//! not. It shows that kernels, grids and arguments come to the right numbers; how fast they are it cannot show.

mod machine;

use std::{
    collections::HashMap,
    ffi::{CString, c_char, c_int, c_void},
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock},
};

use super::{Argument, Launch, program::Program};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// What `run.h` exports.
type Emulate = unsafe extern "C" fn(*const c_char, *const u32, u32, *mut *mut c_void) -> c_int;

/// The compiler, where there is one.
fn compiler() -> Option<&'static str> {
    static COMPILER: OnceLock<Option<&'static str>> = OnceLock::new();
    *COMPILER.get_or_init(|| {
        let works = |name: &&str| {
            Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
        };
        ["c++", "g++", "clang++"].into_iter().find(works)
    })
}

/// A compiled program. Its kernels keep their state in global variables, so that one runs at a time.
fn compiled(program: Program) -> &'static Mutex<Emulate> {
    static COMPILED: OnceLock<Mutex<HashMap<Program, &'static Mutex<Emulate>>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap();
    compiled.entry(program).or_insert_with(|| Box::leak(Box::new(Mutex::new(compile(program)))))
}

fn compile(program: Program) -> Emulate {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/emulator");
    let folder = std::env::var_os("CARGO_TARGET_TMPDIR").map_or(folder, PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let name = format!("{}-{}", std::process::id(), program.definitions().concat().replace(['=', '-'], "_"));
    let (source, library) = (folder.join(format!("{name}.cpp")), folder.join(format!("{name}.so")));
    let text = [include_str!("device.h"), &program.source(), include_str!("run.h")].concat();
    std::fs::write(&source, text).unwrap();
    let output = Command::new(compiler().unwrap())
        .args([
            "-std=c++17",
            "-O1",
            "-w",
            "-ffp-contract=off",
            "-fPIC",
            "-shared",
            "-DEMULATED",
            "-U_FORTIFY_SOURCE",
        ])
        .args(program.definitions())
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    const NOW: c_int = 2;
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // Safety: the library is the one that was just made, and exports the function with that signature.
    let emulate: Emulate = unsafe {
        let opened = dlopen(path.as_ptr(), NOW);
        assert!(!opened.is_null(), "{} cannot be loaded", library.display());
        let found = dlsym(opened, c"emulate".as_ptr());
        assert!(!found.is_null());
        std::mem::transmute(found)
    };
    // What is loaded stays, whatever happens to the files.
    std::fs::remove_file(source).unwrap();
    std::fs::remove_file(library).unwrap();
    emulate
}

/// Runs a kernel to its end. Addresses are those of this process.
fn run(program: Program, launch: &Launch) {
    let name = CString::new(launch.kernel).unwrap();
    let mut arguments: Vec<*mut c_void> = launch
        .arguments
        .iter()
        .map(|argument| match argument {
            Argument::Address(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Count(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Stride(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Number(value) => std::ptr::from_ref(value).cast_mut().cast(),
        })
        .collect();
    let emulate = compiled(program).lock().unwrap();
    // Safety: the arguments are those of the kernel, as on a GPU, and their addresses are of memory that outlives the call.
    let status =
        unsafe { emulate(name.as_ptr(), launch.grid.as_ptr(), launch.threads, arguments.as_mut_ptr()) };
    assert_eq!(status, 0, "there is no kernel {}", launch.kernel);
}
