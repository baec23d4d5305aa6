//! What does a library file say about itself before `ort` binds the process to it, and how is it kept from reporting
//! to its maker?
//!
//! All of it happens before the library's environment exists, which is why `ort` cannot do it.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::Once;

use libloading::{Library, Symbol};

/// Why a file is not ONNX Runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LibraryError {
    /// The system's loader refused it.
    #[error("it cannot be loaded: {0}")]
    Loader(String),
    /// It is a library, but another one.
    #[error("it is not ONNX Runtime: it has no OrtGetApiBase")]
    NoEntryPoint,
    /// The entry point gave nothing usable.
    #[error("it does not tell its version")]
    NoVersion,
}

/// A library that was loaded to be asked. It stays loaded as long as this lives.
pub(crate) struct Opened {
    /// What it says its version is.
    pub(crate) version: String,
    _library: Library,
}

/// Loads the library at `path` and asks for its version.
pub(crate) fn open(path: &Path) -> Result<Opened, LibraryError> {
    // SAFETY: loading runs the library's initialisers. The operator pointed us to this file as ONNX Runtime, whose
    // initialisers register static tables and start no threads.
    let library = unsafe { Library::new(path) }.map_err(|error| LibraryError::Loader(error.to_string()))?;
    // SAFETY: `OrtGetApiBase` has had this C signature in every release.
    let entry: Symbol<'_, unsafe extern "C" fn() -> *const ort::sys::OrtApiBase> =
        unsafe { library.get(b"OrtGetApiBase\0") }.map_err(|_| LibraryError::NoEntryPoint)?;
    // SAFETY: the entry point takes nothing and returns a pointer to a static table, or null.
    let base = unsafe { entry().as_ref() }.ok_or(LibraryError::NoVersion)?;
    // SAFETY: `GetVersionString` takes nothing; `base` is the table it belongs to.
    let text: *const c_char = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err(LibraryError::NoVersion);
    }
    // SAFETY: the string is static in the library, NUL-terminated, and copied before the library may be unloaded.
    let version = unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| LibraryError::NoVersion)?.to_owned();
    Ok(Opened { version, _library: library })
}

/// Keeps the library from reporting to its maker, unless the operator has set `ORT_DISABLE_TELEMETRY` himself.
///
/// The switch in the library's own API comes too late: creating the environment already writes a device id into the
/// home folder and starts the thread that sends. Only the variable is read before that.
pub(crate) fn silence_telemetry() {
    static ONCE: Once = Once::new();
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    ONCE.call_once(|| {
        if std::env::var_os(VARIABLE).is_some() {
            return;
        }
        // SAFETY: other Rust threads are kept out by the standard library's lock on the environment. C code may read
        // it at the same time without that lock. This is the only place in the process that changes the environment,
        // and it runs once: the C library's first addition copies the list of variables to a new block and leaves
        // the original one, which the kernel laid out, and all its strings in place, so that such a reader sees
        // either the old list or the new one.
        unsafe { std::env::set_var(VARIABLE, "1") };
    });
}
