//! Is the committed code what the .proto files say? `TILTYARD_REGENERATE=1 cargo test -p tiltyard-proto --test generated`
//! makes it so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use prost::Message;

const FILES: [&str; 5] =
    ["inference.proto", "model_config.proto", "health.proto", "reflection_v1.proto", "reflection_v1alpha.proto"];
const REGENERATE: &str = "TILTYARD_REGENERATE";

/// All generated files by name.
fn generate(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut compiler = protox::Compiler::new([root.join("proto")]).expect("the folder of .proto files");
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(FILES).expect("the .proto files compile");
    let mut descriptors = compiler.file_descriptor_set();

    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    let requests = descriptors
        .file
        .iter()
        .map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file.clone()))
        .collect();
    let mut generated: BTreeMap<String, Vec<u8>> = config
        .generate(requests)
        .expect("the code generates")
        .into_iter()
        .map(|(module, code)| (module.to_file_name_or("unnamed"), code.into_bytes()))
        .collect();

    // Clients that ask for descriptors have no use for our comments; the code above has them as its documentation.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    generated.insert("descriptors.bin".to_owned(), descriptors.encode_to_vec());
    generated
}

fn files_of(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder of generated code");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("src/generated");
    let generated = generate(root);
    if std::env::var_os(REGENERATE).is_some_and(|value| value == "1") {
        for (name, content) in &generated {
            fs::write(folder.join(name), content).expect("the generated code is written");
        }
    }
    for (name, content) in &generated {
        let committed = fs::read(folder.join(name)).unwrap_or_default();
        assert!(
            committed == *content,
            "src/generated/{name} is stale: run this test with {REGENERATE}=1 and commit it"
        );
    }
    let names: BTreeSet<String> = generated.into_keys().collect();
    assert_eq!(files_of(&folder), names, "src/generated holds a file that nothing generates");
}

#[test]
fn every_proto_file_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(files_of(&root.join("proto")), FILES.map(str::to_owned).into());
}
