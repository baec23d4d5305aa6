//! Does `auto` take an engine that answers rightly, and the same one at the next start?

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineBuild, EngineError, ModelFile, Session};
use tiltyard_runtime::load::LoadError;
use tiltyard_runtime::repository::scan;
use tiltyard_types::{Buffer, Signature, Tensor};

use crate::refusals::is_refused;
use crate::subjects::{Subject, engines, loader, subject, subjects, subjects_in};

/// The engine that is taken for a version.
fn chosen(engines: Vec<Arc<dyn Engine>>, subject: &Subject, profiles: &Path) -> Result<&'static str, LoadError> {
    let deployment = loader(engines, Some(profiles.to_owned())).load(&subject.name, 1, &subject.found)?;
    Ok(deployment.identity.engine)
}

/// The named model in a folder of its own, with its golden examples or without.
fn copied(name: &str, folder: &Path, with_goldens: bool) -> Subject {
    for (file, path) in subject(name).found.files.iter().filter(|(file, _)| with_goldens || !file.starts_with("golden"))
    {
        let to = folder.join(name).join("1").join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    let found = scan(folder).unwrap().models.remove(name).unwrap().versions.remove(&1).unwrap();
    Subject { name: name.into(), found }
}

#[test]
fn auto_takes_an_engine_that_passes_and_keeps_to_it() {
    let engines = engines();
    if engines.len() < 2 {
        return;
    }
    let profiles = tempfile::tempdir().unwrap();
    for subject in subjects() {
        let able = engines.iter().map(|engine| engine.name());
        let able: Vec<&str> = able.filter(|engine| !is_refused(engine, &subject.name)).collect();
        let first =
            chosen(engines.clone(), &subject, profiles.path()).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
        assert!(able.contains(&first), "{}: {first} was taken of {able:?}", subject.name);
        let kept = fs::read_dir(profiles.path()).unwrap().count();
        let second = chosen(engines.clone(), &subject, profiles.path()).unwrap();
        assert_eq!(first, second, "{}", subject.name);
        assert_eq!(fs::read_dir(profiles.path()).unwrap().count(), kept, "{}: it was measured anew", subject.name);
    }
}

#[test]
fn a_kept_choice_is_obeyed() {
    let engines = engines();
    if engines.len() < 2 {
        return;
    }
    for wanted in engines.iter().map(|engine| engine.name()) {
        let profiles = tempfile::tempdir().unwrap();
        chosen(engines.clone(), &subject("risk"), profiles.path()).unwrap();
        let file = fs::read_dir(profiles.path()).unwrap().next().expect("the choice is kept").unwrap().path();
        fs::write(file, format!(r#"{{"engine": "{wanted}"}}"#)).unwrap();
        assert_eq!(chosen(engines.clone(), &subject("risk"), profiles.path()), Ok(wanted));
    }
}

/// An engine that nobody is to ask.
struct Unasked;

impl Engine for Unasked {
    fn name(&self) -> &'static str {
        "unasked"
    }

    fn build(&self) -> EngineBuild {
        EngineBuild { version: "1".into(), library: None, providers: vec!["cpu".into()] }
    }

    fn compile(&self, _: &ModelFile, _: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        Err(EngineError::Failed("it was asked".into()))
    }
}

#[test]
fn what_classical_runs_is_compared_with_nothing_and_golden_examples_decide_even_so() {
    let both = || -> Vec<Arc<dyn Engine>> { vec![Arc::new(tiltyard_classical::engine()), Arc::new(Unasked)] };
    let (folder, profiles) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = copied("trees", folder.path(), true);
    assert_eq!(chosen(both(), &model, profiles.path()), Ok("classical"));
    assert_eq!(fs::read_dir(profiles.path()).unwrap().count(), 0, "nothing was compared");
    let golden = fs::read_dir(folder.path().join("trees/1/golden")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&golden).unwrap();
    let at = text.find("\"outputs\"").unwrap();
    // The first label is another one: 7 stands before it.
    let wrong = text[at..].replacen("\"data\": [\n    ", "\"data\": [\n    7", 1);
    assert_ne!(wrong, text[at..]);
    fs::write(&golden, format!("{}{wrong}", &text[..at])).unwrap();
    let found = scan(folder.path()).unwrap().models.remove("trees").unwrap().versions.remove(&1).unwrap();
    let error = chosen(both(), &Subject { name: "trees".into(), found }, profiles.path()).unwrap_err().reason;
    assert!(error.contains("classical: golden example") && error.contains("unasked: it was asked"), "{error}");
}

/// An engine whose models run on a device, or say so.
struct Device(Arc<dyn Engine>);

struct DeviceModel(Box<dyn CompiledModel>);

impl Engine for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn build(&self) -> EngineBuild {
        EngineBuild { version: "1".into(), library: None, providers: vec!["cuda".into()] }
    }

    fn compile(&self, model: &ModelFile, _: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        Ok(Box::new(DeviceModel(self.0.compile(model, &CompileOptions::default())?)))
    }
}

impl CompiledModel for DeviceModel {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> &str {
        "cuda"
    }

    fn likes_fixed_sizes(&self) -> bool {
        true
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        self.0.open()
    }
}

#[test]
fn a_preferred_device_is_taken_however_fast_the_processor_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = copied("risk", folder.path(), true);
    let settings = folder.path().join("risk/model.toml");
    let text = fs::read_to_string(&settings).unwrap_or_default();
    for (providers, expected) in [(r#"["cuda", "cpu"]"#, "device"), (r#"["cpu", "cuda"]"#, "tract")] {
        fs::write(&settings, format!("providers = {providers}\n{text}")).unwrap();
        let device: Arc<dyn Engine> = Arc::new(Device(engines()[0].clone()));
        let profiles = tempfile::tempdir().unwrap();
        let found = subjects_in(folder.path()).into_iter().find(|subject| subject.name == model.name).unwrap();
        let both = vec![engines()[0].clone(), device];
        assert_eq!(chosen(both, &found, profiles.path()), Ok(expected), "{providers}");
    }
}

/// Its sizes are run at the load, where a shared input goes into each run as it is.
#[test]
fn a_device_loads_a_model_whose_rows_share_an_input() {
    let model = subject("weighted");
    let profiles = tempfile::tempdir().unwrap();
    let device: Arc<dyn Engine> = Arc::new(Device(engines()[0].clone()));
    assert_eq!(chosen(vec![device], &model, profiles.path()), Ok("device"));
}

/// An engine that answers wrongly, without an error.
struct Hasty(Arc<dyn Engine>);

struct HastyModel(Box<dyn CompiledModel>);

struct HastySession(Box<dyn Session>);

impl Engine for Hasty {
    fn name(&self) -> &'static str {
        "hasty"
    }

    fn build(&self) -> EngineBuild {
        EngineBuild { version: "1".into(), library: None, providers: vec!["cpu".into()] }
    }

    fn compile(&self, model: &ModelFile, options: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        Ok(Box::new(HastyModel(self.0.compile(model, options)?)))
    }
}

impl CompiledModel for HastyModel {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> &str {
        self.0.provider()
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(HastySession(self.0.open()?)))
    }
}

impl Session for HastySession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.0.run(inputs, wanted)?;
        Ok(outputs.iter().map(spoiled).collect())
    }
}

/// The same tensor with the first element's top byte changed.
fn spoiled(tensor: &Tensor) -> Tensor {
    let (Some(bytes), Some(width)) = (tensor.bytes().map(|bytes| bytes.to_vec()), tensor.dtype().width()) else {
        return tensor.clone();
    };
    let mut bytes = bytes;
    if let Some(top) = bytes.get_mut(width - 1) {
        *top ^= 0x40;
    }
    Tensor::fixed(tensor.dtype(), tensor.shape().clone(), Buffer::copy_of(&bytes)).expect("the length is the same")
}

#[test]
fn a_wrong_answer_is_resolved_by_golden_examples() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = tempfile::tempdir().unwrap();
    for right in engines() {
        let hasty: Arc<dyn Engine> = Arc::new(Hasty(Arc::clone(&right)));
        for name in ["optional_input", "risk"] {
            let with = copied(name, folder.path(), true);
            for order in [[&hasty, &right], [&right, &hasty]] {
                let taken = chosen(order.map(Arc::clone).to_vec(), &with, profiles.path());
                assert_eq!(taken, Ok(right.name()), "{name}");
            }
            let alone = chosen(vec![Arc::clone(&hasty)], &with, profiles.path());
            assert!(alone.is_err_and(|error| error.reason.contains("golden example")), "{name}");
        }
    }
}

/// Without examples nobody knows who is right: engines that disagree leave the preferred one.
#[test]
fn without_golden_examples_the_preferred_engine_decides() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = tempfile::tempdir().unwrap();
    for right in engines() {
        let hasty: Arc<dyn Engine> = Arc::new(Hasty(Arc::clone(&right)));
        let without = copied("risk", folder.path(), false);
        let taken = chosen(vec![Arc::clone(&right), hasty], &without, profiles.path());
        assert_eq!(taken, Ok(right.name()));
    }
}

#[test]
fn an_engine_in_doubt_needs_golden_examples() {
    let tract = engines().remove(0);
    let (folder, profiles) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refused = chosen(vec![Arc::clone(&tract)], &copied("trees", folder.path(), false), profiles.path());
    assert!(refused.is_err_and(|error| error.reason.contains("tree ensembles")));
    let proved = copied("trees", folder.path(), true);
    assert_eq!(chosen(vec![Arc::clone(&tract)], &proved, profiles.path()), Ok("tract"));
    let engines = engines();
    if engines.len() > 1 {
        let other = tempfile::tempdir().unwrap();
        let without = copied("trees", other.path(), false);
        assert_eq!(chosen(engines, &without, profiles.path()), Ok("onnxruntime"));
    }
}
