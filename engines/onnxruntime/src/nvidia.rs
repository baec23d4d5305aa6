//! Where are NVIDIA's libraries, where Python packages brought them and the system's loader does not look?
//!
//! `pip install onnxruntime-gpu[cuda,cudnn]` puts them beside ONNX Runtime's own package, each in a folder of its own. A
//! library that is loaded already is found by its name, so they are loaded from there before the provider asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};

/// How their files' names begin, those that others lean on first.
const NAMES: [&str; 18] = [
    "libcudart.so.",
    "libnvJitLink.so.",
    "libcublasLt.so.",
    "libcublas.so.",
    "libnvrtc.so.",
    "libcurand.so.",
    "libcufft.so.",
    "libcudnn.so.",
    "libcudnn_graph.so.",
    "libcudnn_ops.so.",
    "libcudnn_heuristic.so.",
    "libcudnn_adv.so.",
    "libcudnn_cnn.so.",
    "libcudnn_engines_precompiled.so.",
    "libcudnn_engines_runtime_compiled.so.",
    "libnvinfer.so.",
    "libnvinfer_plugin.so.",
    "libnvonnxparser.so.",
];

/// Loads what lies beside the package that `library` is part of, once in a process. What cannot be loaded is left to
/// the provider, whose error names what is missing.
pub(crate) fn preload(library: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for path in beside(library) {
            // SAFETY: loading runs the library's initialisers. These are NVIDIA's own, from the package folder that the
            // operator's ONNX Runtime is part of, which loads the same ones. They stay loaded.
            match unsafe { Library::open(Some(&path), RTLD_LAZY | RTLD_GLOBAL) } {
                Ok(library) => {
                    tracing::debug!(path = %path.display(), "loaded for the provider");
                    std::mem::forget(library);
                }
                Err(error) => tracing::debug!(path = %path.display(), %error, "not loaded"),
            }
        }
    });
}

/// NVIDIA's libraries beside the Python package, in the order in which they can be loaded.
fn beside(library: &Path) -> Vec<PathBuf> {
    // The file is `<site-packages>/onnxruntime/capi/libonnxruntime.so.<version>`.
    let Some(packages) = library.ancestors().nth(3).filter(|_| library.parent().is_some_and(|p| p.ends_with("capi")))
    else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> =
        entries(&packages.join("nvidia")).into_iter().map(|folder| folder.join("lib")).collect();
    folders.push(packages.join("tensorrt_libs"));
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| entries(folder)).collect();
    let begins =
        |path: &Path, name: &str| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name));
    NAMES.iter().flat_map(|name| files.iter().filter(|path| begins(path, name)).cloned()).collect()
}

/// What is in a folder, sorted; nothing where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_the_order_they_need() {
        let packages = tempfile::tempdir().unwrap();
        let library = packages.path().join("onnxruntime/capi/libonnxruntime.so.1.31.1");
        let files = [
            "nvidia/cu13/lib/libcublas.so.13",
            "nvidia/cu13/lib/libcublasLt.so.13",
            "nvidia/cu13/lib/libother.so.1",
            "nvidia/cudnn/lib/libcudnn.so.9",
            "nvidia/cuda_runtime/lib/libcudart.so.13",
            "tensorrt_libs/libnvinfer.so.10",
        ];
        for file in files {
            let path = packages.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = beside(&library);
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9", "libnvinfer.so.10"]
        );
        assert!(beside(Path::new("/usr/lib/libonnxruntime.so")).is_empty());
    }
}
