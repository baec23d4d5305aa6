//! How do several threads run one ONNX Runtime session, and how do tensors cross the border without a needless copy?
//!
//! `ort` asks for `&mut Session` to run one. ONNX Runtime's own contract is weaker: its maintainers state that `Run`
//! may be called on one session from several threads at a time (microsoft/onnxruntime issues 114 and 22967), and the
//! Python, C# and Java bindings rely on it. What `ort` guards against are the arena's allocators and the execution
//! providers of devices. Therefore:
//!
//! - a session that is shared was compiled for the CPU with the arena switched off;
//! - a session on a device is behind one [`SharedSession`] that is leased by one thread at a time, with [`Staging`] of
//!   its own where the device reads and writes host memory faster that is pinned;
//! - a test runs one session on four threads and compares every answer bit for bit with a serial run.
//!
//! Inputs are lent, not copied: ONNX Runtime reads our bytes for the duration of `Run`. It does not write to them:
//! its allocation planner counts the caller as one more user of each graph input, so that no kernel may reuse one for
//! its output. On the CPU, outputs whose shape is known before the run are written straight into our own memory (see
//! [`crate::foretell`]); the others are copied there before the library's values are released.

mod fixed;
#[cfg(test)]
mod panics;
mod staging;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ort::AsPointer;
use ort::session::{Session, SharedSessionInner};
use ort::sys::{
    ONNXTensorElementDataType as ElementType, OrtAllocator, OrtAllocatorType, OrtMemType, OrtMemoryInfo, OrtRunOptions,
    OrtStatusPtr, OrtValue,
};
use smallvec::SmallVec;
use tiltyard_types::{Buffer, DataType, Shape, Signature, Tensor, TensorData};

pub(crate) use self::fixed::Fixed;
pub(crate) use self::staging::{HostMemory, Staging, on_device};
use crate::foretell::Foretold;

/// A session with the names it is called by, prepared once.
pub(crate) struct SharedSession {
    session: Arc<SharedSessionInner>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    run_options: RunOptions,
    cpu_memory: MemoryInfo,
    allocator: NonNull<OrtAllocator>,
    /// By output: how to tell its shape before the run. Nothing is foretold on devices.
    foretold: Vec<Option<Foretold>>,
    /// False once a shape was foretold wrongly.
    guesses_right: AtomicBool,
}

// SAFETY: see the module's documentation for `Run`. The run options and the memory description are written once, when
// they are made, and only read afterwards. The allocator is the process-wide one for the CPU, which is documented as
// thread-safe and is never released.
unsafe impl Send for SharedSession {}
// SAFETY: as above.
unsafe impl Sync for SharedSession {}

/// Why a run gave no outputs.
#[derive(Debug)]
pub(crate) enum RunError {
    /// ONNX Runtime refused or failed.
    Library(ort::Error),
    /// The answer cannot be represented, or the call was not what the signature promises.
    Shape(String),
}

impl From<ort::Error> for RunError {
    fn from(error: ort::Error) -> RunError {
        RunError::Library(error)
    }
}

impl SharedSession {
    /// Takes a session over, which is on the CPU alone or on a device. Fails when a name holds a NUL or the library is
    /// out of memory.
    pub(crate) fn new(session: &Session, signature: &Signature, on_cpu: bool) -> Result<SharedSession, ort::Error> {
        let names = |specs: &[tiltyard_types::TensorSpec]| -> Result<Vec<CString>, ort::Error> {
            specs.iter().map(|spec| Ok(CString::new(spec.name.as_str())?)).collect()
        };
        let mut allocator: *mut OrtAllocator = ptr::null_mut();
        // SAFETY: the out-pointer is valid for the call.
        check(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
        Ok(SharedSession {
            session: session.inner(),
            input_names: names(&signature.inputs)?,
            output_names: names(&signature.outputs)?,
            run_options: RunOptions::quiet()?,
            cpu_memory: MemoryInfo::cpu()?,
            allocator: NonNull::new(allocator).ok_or_else(|| ort::Error::new("no default allocator"))?,
            foretold: match on_cpu {
                true => Foretold::of(signature),
                false => vec![None; signature.outputs.len()],
            },
            guesses_right: AtomicBool::new(true),
        })
    }

    /// Runs a graph's session on every run from now on as a plain one: see [`Fixed`].
    pub(crate) fn without_graphs(mut self) -> Result<SharedSession, ort::Error> {
        self.run_options = RunOptions::of_graph(fixed::NO_GRAPH)?;
        Ok(self)
    }

    /// Runs the model once; see [`tiltyard_runtime::engine::Session::run`] for the arguments. With `staging`, what a
    /// device reads passes through there.
    pub(crate) fn run(
        &self,
        inputs: &[Option<Tensor>],
        wanted: &[usize],
        mut staging: Option<&mut Staging>,
    ) -> Result<Vec<Tensor>, RunError> {
        self.check_count(inputs)?;
        // Declared before the values that borrow from them, and so dropped after.
        let mut aligned_copies: SmallVec<[Tensor; 2]> = SmallVec::new();
        let mut names: SmallVec<[*const c_char; 8]> = SmallVec::new();
        let mut lent = Values::default();
        for (position, (name, tensor)) in self.input_names.iter().zip(inputs).enumerate() {
            let Some(tensor) = tensor else { continue };
            let staged = match &mut staging {
                Some(staging) => staging.take_in(position, tensor)?,
                None => None,
            };
            lent.0.push(match staged {
                Some(value) => value,
                None => self.lend(tensor, &mut aligned_copies)?,
            });
            names.push(name.as_ptr());
        }
        let wanted_names = self.names_of(wanted)?;
        let call = Call { inputs, names: &names, lent: &lent, wanted, wanted_names: &wanted_names };
        let tells = |&position: &usize| self.foretold[position].is_some();
        let guess = self.guesses_right.load(Ordering::Relaxed) && wanted.iter().any(tells);
        let first = self.run_into(&call, guess);
        if guess && let Err(error) = &first {
            // The request may be at fault, or a signature that promises another shape than the graph gives, or memory
            // was short for a moment.
            let second = self.run_into(&call, false);
            if second.is_ok() && matches!(error, RunError::Library(error) if is_wrong_guess(error.message())) {
                tracing::debug!(
                    "outputs have other shapes than the signature says: the library allocates them from now on"
                );
                self.guesses_right.store(false, Ordering::Relaxed);
            }
            return second;
        }
        first
    }

    fn check_count(&self, inputs: &[Option<Tensor>]) -> Result<(), RunError> {
        if inputs.len() == self.input_names.len() {
            return Ok(());
        }
        let expected = self.input_names.len();
        Err(RunError::Shape(format!("the model has {expected} inputs, the run was given {}", inputs.len())))
    }

    /// The names of the outputs at these positions.
    fn names_of(&self, wanted: &[usize]) -> Result<SmallVec<[*const c_char; 8]>, RunError> {
        let name = |&position: &usize| {
            let name = self.output_names.get(position);
            let name =
                name.ok_or_else(|| RunError::Shape(format!("the model has no output at position {position}")))?;
            Ok(name.as_ptr())
        };
        wanted.iter().map(name).collect()
    }

    /// Runs the model with values that are lent already. With `guess`, outputs whose shape is foretold are written
    /// straight into memory of ours, and the run fails where a shape was foretold wrongly.
    fn run_into(&self, call: &Call<'_>, guess: bool) -> Result<Vec<Tensor>, RunError> {
        let wanted = call.wanted;
        // Declared before the values that point into them, and so dropped after.
        let mut ours: SmallVec<[Option<(Shape, Buffer)>; 4]> = SmallVec::new();
        let mut outputs = Values(SmallVec::from_elem(ptr::null_mut(), wanted.len()));
        for (&position, slot) in wanted.iter().zip(&mut outputs.0) {
            let foretold = self.foretold[position].as_ref().filter(|_| guess);
            let room = foretold.and_then(|foretold| Some((foretold.dtype, foretold.shape(call.inputs)?)));
            ours.push(match room {
                Some((dtype, (shape, bytes))) => {
                    let mut buffer = Buffer::zeroed(bytes);
                    // The address stays where the buffer is moved to; nobody looks at it before the run is over.
                    *slot = value_over(&self.cpu_memory, buffer.as_bytes_mut().as_mut_ptr(), bytes, &shape, dtype)?;
                    Some((shape, buffer))
                }
                None => None,
            });
        }
        // What the values lend and the buffers of `ours` outlive this function. An output slot is null, which asks ONNX
        // Runtime to allocate, or a tensor over a buffer that nobody else has and that is as long as its shape says.
        // Into such a one the library writes at most that many elements: what a node computes after it compared the
        // shapes, and a constant after it compared the numbers of elements.
        self.call(&self.run_options, call.names, call.lent, call.wanted_names, &mut outputs)?;
        let take = |((&position, &value), ours): ((&usize, &*mut OrtValue), Option<(Shape, Buffer)>)| {
            let name = &self.output_names[position];
            match (ours, &self.foretold[position]) {
                (Some((shape, buffer)), Some(foretold)) => {
                    Tensor::fixed(foretold.dtype, shape, buffer).map_err(|error| {
                        RunError::Shape(format!("output {:?} is not a whole tensor: {error}", name.to_string_lossy()))
                    })
                }
                _ => read(value, name),
            }
        };
        wanted.iter().zip(&outputs.0).zip(ours).map(take).collect()
    }

    /// The one call of the library's `Run`. The caller keeps what the values point to until it returns.
    fn call(
        &self,
        options: &RunOptions,
        names: &[*const c_char],
        lent: &Values,
        wanted_names: &[*const c_char],
        outputs: &mut Values,
    ) -> Result<(), ort::Error> {
        assert!(names.len() == lent.0.len() && wanted_names.len() == outputs.0.len());
        #[cfg(test)]
        assert!(!panics::PANICS.swap(false, Ordering::Relaxed), "as ordered");
        // SAFETY: `Run` may be called concurrently (see the module's documentation) and `self.session` keeps the
        // session alive. Names are NUL-terminated and owned by `self`; each array has the length that is passed with
        // it. The values are live. Whatever is in the output slots afterwards, also on failure, `outputs` releases.
        check(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.0.as_ptr(),
                names.as_ptr(),
                lent.0.as_ptr().cast(),
                lent.0.len(),
                wanted_names.as_ptr(),
                wanted_names.len(),
                outputs.0.as_mut_ptr(),
            )
        })
    }

    /// Makes a value over the tensor's own bytes, or for strings one with a copy of them.
    ///
    /// The value must not outlive `tensor` and `aligned_copies`.
    fn lend(&self, tensor: &Tensor, aligned_copies: &mut SmallVec<[Tensor; 2]>) -> Result<*mut OrtValue, RunError> {
        let bytes = match tensor.data() {
            TensorData::Strings(elements) => return Ok(self.copy_strings(tensor.shape(), elements)?),
            TensorData::Fixed(bytes) if Buffer::is_aligned(bytes) => bytes.as_ptr(),
            TensorData::Fixed(_) => {
                aligned_copies.push(tensor.aligned());
                // Moving a tensor does not move its bytes, so this address outlives the next push.
                aligned_copies.last().and_then(Tensor::bytes).map_or(ptr::null(), |bytes| bytes.as_ptr())
            }
        };
        // An empty tensor's address may be anything that is not null; ONNX Runtime still wants it aligned.
        const NOWHERE: &u64 = &0;
        let start = if tensor.size() == 0 { ptr::from_ref(NOWHERE).cast() } else { bytes };
        // By the tensor's invariant its shape asks for exactly its size. The bytes are only read (see the module's
        // documentation), so the cast to a mutable pointer, which the C signature asks for, never leads to a write.
        Ok(value_over(&self.cpu_memory, start.cast_mut(), tensor.size(), tensor.shape(), tensor.dtype())?)
    }

    /// Makes a string value with a copy of `elements`.
    ///
    /// `FillStringTensor` takes C strings and would cut each at its first NUL, so the bytes are written in place.
    fn copy_strings(&self, shape: &Shape, elements: &[Bytes]) -> Result<*mut OrtValue, ort::Error> {
        let dims: SmallVec<[i64; 8]> = shape.iter().map(|&axis| i64::try_from(axis).unwrap_or(i64::MAX)).collect();
        let mut values = Values(SmallVec::from_elem(ptr::null_mut(), 1));
        // SAFETY: the allocator is valid for the process; the other pointers are valid for the call.
        check(unsafe {
            (ort::api().CreateTensorAsOrtValue)(
                self.allocator.as_ptr(),
                dims.as_ptr(),
                dims.len(),
                element_type(DataType::Bytes),
                &mut values.0[0],
            )
        })?;
        for (index, element) in elements.iter().enumerate() {
            let mut room: *mut c_char = ptr::null_mut();
            // SAFETY: the value is a string tensor with as many elements as the shape says, which is how many there
            // are here, by the tensor's invariant.
            check(unsafe {
                (ort::api().GetResizedStringTensorElementBuffer)(values.0[0], index, element.len(), &mut room)
            })?;
            if !element.is_empty() {
                // SAFETY: the call succeeded, so `room` holds exactly `element.len()` bytes, newly made and ours.
                unsafe { ptr::copy_nonoverlapping(element.as_ptr(), room.cast::<u8>(), element.len()) };
            }
        }
        Ok(std::mem::replace(&mut values.0[0], ptr::null_mut()))
    }
}

/// What a run is asked, with everything in the library's form.
struct Call<'a> {
    inputs: &'a [Option<Tensor>],
    names: &'a [*const c_char],
    lent: &'a Values,
    wanted: &'a [usize],
    wanted_names: &'a [*const c_char],
}

/// Makes a value over `bytes` bytes at `start`, in memory of that kind.
///
/// The value must not outlive them; they must be as many as the shape asks for, and aligned for every element.
fn value_over(
    memory: &MemoryInfo,
    start: *mut u8,
    bytes: usize,
    shape: &Shape,
    dtype: DataType,
) -> Result<*mut OrtValue, ort::Error> {
    // A length over `i64::MAX` is only possible beside a zero; ONNX Runtime refuses or ignores it then.
    let dims: SmallVec<[i64; 8]> = shape.iter().map(|&axis| i64::try_from(axis).unwrap_or(i64::MAX)).collect();
    let mut value: *mut OrtValue = ptr::null_mut();
    // SAFETY: the callers pass an address that is valid for `bytes` bytes and aligned for every element type, and
    // a shape that asks for exactly that many. The other pointers are valid for the call, which copies the shape.
    check(unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.0.as_ptr(),
            start.cast::<c_void>(),
            bytes,
            dims.as_ptr(),
            dims.len(),
            element_type(dtype),
            &mut value,
        )
    })?;
    Ok(value)
}

/// Begins what the library says of an output in memory of ours that has another shape than the graph gives: where a node
/// asks for it, and before the run where the graph tells.
const WRONG_GUESS: [&str; 3] =
    ["OrtValue shape verification failed", "Got invalid dimensions for output", "Invalid rank for output"];

/// Whether a message says that an output has another shape than was foretold. Other failures may pass.
fn is_wrong_guess(message: &str) -> bool {
    WRONG_GUESS.iter().any(|sign| message.contains(sign))
}

/// Copies a value out of the library's memory.
fn read(value: *mut OrtValue, name: &CStr) -> Result<Tensor, RunError> {
    let wrong = |what: &str| RunError::Shape(format!("output {:?} {what}", name.to_string_lossy()));
    if value.is_null() {
        return Err(wrong("is absent"));
    }
    let (mut has_value, mut is_tensor) = (0, 0);
    // SAFETY: `value` is live until its owner is dropped, after this function; the out-pointers are valid.
    check(unsafe { (ort::api().HasValue)(value, &mut has_value) })?;
    // SAFETY: as above.
    check(unsafe { (ort::api().IsTensor)(value, &mut is_tensor) })?;
    if has_value == 0 {
        return Err(wrong("is an optional without a value"));
    }
    if is_tensor == 0 {
        return Err(wrong("is not a tensor"));
    }
    let (dtype, shape) = describe(value)?;
    let dtype = dtype.ok_or_else(|| wrong("has an element type that cannot be served"))?;
    let elements = shape.elements().ok_or_else(|| wrong("has more elements than memory can address"))?;
    let tensor = match dtype.width() {
        None => Tensor::strings(shape, read_strings(value, elements)?),
        Some(_) if elements == 0 => Tensor::fixed(dtype, shape, Bytes::new()),
        Some(width) => {
            let mut start: *mut c_void = ptr::null_mut();
            // SAFETY: `value` is a live tensor of numbers.
            check(unsafe { (ort::api().GetTensorMutableData)(value, &mut start) })?;
            // SAFETY: a tensor's data is one block of `elements * width` bytes, which ONNX Runtime allocated, so that
            // the product does not overflow. Nobody writes to it after the run.
            let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), elements * width) };
            Tensor::fixed(dtype, shape, Buffer::copy_of(bytes))
        }
    };
    tensor.map_err(|error| wrong(&format!("is not a whole tensor: {error}")))
}

/// Element type and shape of a tensor value; the type is `None` where it is none of ours.
fn describe(value: *const OrtValue) -> Result<(Option<DataType>, Shape), ort::Error> {
    // Read as a number, since a newer library may have types that the enumeration does not.
    let mut code: i32 = 0;
    let (mut dims, mut rank): (*const i64, usize) = (ptr::null(), 0);
    // SAFETY: `value` is a live tensor; the out-pointers are valid, and the enumeration is a C `int`.
    check(unsafe {
        let code = ptr::from_mut(&mut code).cast();
        (ort::api().GetTensorElementTypeAndShapeDataReference)(value, code, &mut dims, &mut rank)
    })?;
    let dims = match rank {
        0 => &[],
        // SAFETY: the call succeeded, so that `dims` holds `rank` lengths, which belong to the value.
        _ => unsafe { std::slice::from_raw_parts(dims, rank) },
    };
    let dtype = DataType::ALL.into_iter().find(|&dtype| element_type(dtype) as i32 == code);
    // A computed shape has no negative lengths.
    Ok((dtype, dims.iter().map(|&axis| usize::try_from(axis).unwrap_or(0)).collect()))
}

/// The elements of a string tensor, all slices of one copy.
fn read_strings(value: *const OrtValue, elements: usize) -> Result<Vec<Bytes>, ort::Error> {
    if elements == 0 {
        return Ok(Vec::new());
    }
    let mut total = 0;
    // SAFETY: `value` is a live string tensor; the out-pointer is valid.
    check(unsafe { (ort::api().GetStringTensorDataLength)(value, &mut total) })?;
    let mut content = vec![0u8; total];
    let mut starts = vec![0usize; elements + 1];
    // SAFETY: `content` has room for the length just asked for, `starts` for one offset per element.
    check(unsafe {
        let content = content.as_mut_ptr().cast::<c_void>();
        (ort::api().GetStringTensorContent)(value, content, total, starts.as_mut_ptr(), elements)
    })?;
    starts[elements] = total;
    let content = Bytes::from(content);
    Ok(starts.windows(2).map(|ends| content.slice(ends[0]..ends[1])).collect())
}

/// Turns a status into a result and releases it.
fn check(status: OrtStatusPtr) -> Result<(), ort::Error> {
    // SAFETY: every status comes straight from a call of the library and is handed over here only.
    unsafe { ort::Error::result_from_status(status) }
}

const fn element_type(dtype: DataType) -> ElementType {
    match dtype {
        DataType::Bool => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::Fp32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// Values that are released when this is dropped.
#[derive(Default)]
struct Values(SmallVec<[*mut OrtValue; 8]>);

impl Drop for Values {
    fn drop(&mut self) {
        for &value in self.0.iter().filter(|value| !value.is_null()) {
            // SAFETY: each value was handed to us by the library and is in this list only.
            unsafe { (ort::api().ReleaseValue)(value) };
        }
    }
}

/// The options of every run of a session.
struct RunOptions(NonNull<OrtRunOptions>);

impl RunOptions {
    /// Options under which a failed run is not logged: it is returned, and a client must not fill the log.
    fn quiet() -> Result<RunOptions, ort::Error> {
        const FATAL_ONLY: i32 = 4;
        let mut options: *mut OrtRunOptions = ptr::null_mut();
        // SAFETY: the out-pointer is valid.
        check(unsafe { (ort::api().CreateRunOptions)(&mut options) })?;
        let options = RunOptions(NonNull::new(options).ok_or_else(|| ort::Error::new("no run options"))?);
        // SAFETY: the options were just made and nobody else has them.
        check(unsafe { (ort::api().RunOptionsSetRunLogSeverityLevel)(options.0.as_ptr(), FATAL_ONLY) })?;
        Ok(options)
    }

    /// Quiet options for runs of the CUDA graph with that number.
    fn of_graph(number: i32) -> Result<RunOptions, ort::Error> {
        let options = RunOptions::quiet()?;
        let number = CString::new(number.to_string())?;
        // SAFETY: the options were just made and nobody else has them; the call copies both strings.
        check(unsafe {
            (ort::api().AddRunConfigEntry)(options.0.as_ptr(), c"gpu_graph_id".as_ptr(), number.as_ptr())
        })?;
        Ok(options)
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made by us; no run is under way, since a run borrows the session that owns this.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) };
    }
}

/// The description of a kind of memory.
struct MemoryInfo(NonNull<OrtMemoryInfo>);

impl MemoryInfo {
    /// Plain memory of this process.
    fn cpu() -> Result<MemoryInfo, ort::Error> {
        MemoryInfo::made(|memory| {
            // SAFETY: the out-pointer is valid.
            unsafe {
                (ort::api().CreateCpuMemoryInfo)(
                    OrtAllocatorType::OrtDeviceAllocator,
                    OrtMemType::OrtMemTypeDefault,
                    memory,
                )
            }
        })
    }

    /// Memory that the library has a name for, on that device.
    fn named(name: &CStr, device: i32) -> Result<MemoryInfo, ort::Error> {
        MemoryInfo::made(|memory| {
            // SAFETY: the name is NUL-terminated and the out-pointer is valid; the call copies or knows the name.
            unsafe {
                (ort::api().CreateMemoryInfo)(
                    name.as_ptr(),
                    OrtAllocatorType::OrtDeviceAllocator,
                    device,
                    OrtMemType::OrtMemTypeCPUOutput,
                    memory,
                )
            }
        })
    }

    fn made(make: impl FnOnce(*mut *mut OrtMemoryInfo) -> OrtStatusPtr) -> Result<MemoryInfo, ort::Error> {
        let mut memory: *mut OrtMemoryInfo = ptr::null_mut();
        check(make(&mut memory))?;
        Ok(MemoryInfo(NonNull::new(memory).ok_or_else(|| ort::Error::new("no memory description"))?))
    }
}

impl Drop for MemoryInfo {
    fn drop(&mut self) {
        // SAFETY: made by us; values and allocators copy it, so none refers to it.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0.as_ptr()) };
    }
}

/// The execution providers that the loaded library was built with, by their names there.
pub(crate) fn available_providers() -> Result<Vec<String>, ort::Error> {
    let mut names: *mut *mut c_char = ptr::null_mut();
    let mut count = 0;
    // SAFETY: the out-pointers are valid.
    check(unsafe { (ort::api().GetAvailableProviders)(&mut names, &mut count) })?;
    let found = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: the call succeeded, so `names` holds `count` NUL-terminated strings.
        .map(|index| unsafe { CStr::from_ptr(*names.add(index)) }.to_string_lossy().into_owned())
        .collect();
    // SAFETY: the list came from the call above, is released once and not used again.
    check(unsafe { (ort::api().ReleaseAvailableProviders)(names, count) })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_shape_is_a_wrong_guess() {
        // As ONNX Runtime 1.32.0 puts it.
        let node = "Non-zero status code returned while running Concat node. Name:'' Status Message: op_kernel.cc:87 \
                    OutputMLValue status.IsOK() was false. OrtValue shape verification failed. Current shape:{3} \
                    Requested shape:{6}";
        assert!(is_wrong_guess(node));
        assert!(is_wrong_guess(
            "Got invalid dimensions for output: c for the following indices\n index: 0 Got: 3 Expected: 2"
        ));
        assert!(is_wrong_guess("Invalid rank for output: y Got: 1 Expected: 2 Please fix either the inputs/outputs"));
        for other in
            ["Failed to allocate memory for requested buffer of size 400", "Got invalid dimensions for input: x"]
        {
            assert!(!is_wrong_guess(other), "{other}");
        }
    }
}
