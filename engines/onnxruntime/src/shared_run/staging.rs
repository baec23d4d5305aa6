//! Where do inputs wait that a device reads without a detour?
//!
//! A device copies from pinned host memory by itself; from any other memory the driver copies through a pinned buffer of its
//! own, a piece at a time. So a session on a device owns pinned memory, into which inputs are copied and from which they
//! are lent. What that gains has not been measured on a device yet.
//!
//! It is `Run` that is handed these values, and no `OrtIoBinding`. In ONNX Runtime's source the two are one path
//! (`InferenceSession::Run(run_options, io_binding)` calls `Run` with what is bound) with two differences, neither of
//! which serves here:
//!
//! - Binding an input that is not on its device copies it at once (`IOBinding::BindInput`,
//!   `utils::CopyOneInputAcrossDevices`), on a stream that is fetched for that input alone and that nobody waits for but
//!   `SynchronizeBoundInputs`, which waits for all that goes on on the device. `Run` copies all inputs on the stream that
//!   computes (`utils::ExecuteGraph`, `CopyInputsAcrossDevices`).
//! - Binding an output to a kind of memory lets the library allocate it there, whatever its shape; `Run` allocates plain
//!   memory where it is given no value. It could be given a value over pinned memory where the shape is known before. But
//!   what comes from a device is copied there without a look at how large the value is (`DataTransferManager::CopyTensors`
//!   hands whole lists on unchecked, and `GPUDataTransfer` copies as much as the source has): a graph whose outputs are
//!   larger than its signature says would write over what is behind. So outputs are the library's to allocate, and are
//!   copied into our own buffers from there.

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ort::AsPointer;
use ort::session::Session;
use ort::sys::{OrtAllocator, OrtMemoryInfo, OrtMemoryInfoDeviceType, OrtValue};
use tiltyard_types::{Buffer, DataType, Shape, Signature, Tensor};

use super::{MemoryInfo, check, value_over};

/// Larger inputs are lent from where they are: pinned memory cannot be swapped out.
const BYTES_MAX: usize = 64 << 20;

/// What blocks grow by.
const PAGE: usize = 4096;

/// Memory of this host that a session's device reads and writes, or stands in for that.
pub(crate) struct HostMemory {
    allocator: NonNull<OrtAllocator>,
    info: MemoryInfo,
}

// SAFETY: the allocators of sessions lock themselves (they are shared by all runs of a session), and the description is
// only read.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// The memory of that name on that device. Fails where no provider of the session has such memory.
    pub(crate) fn named(session: &Session, name: &'static CStr, device: i32) -> Result<HostMemory, ort::Error> {
        HostMemory::of(session, MemoryInfo::named(name, device)?)
    }

    /// Plain memory, for rehearsals without a device.
    pub(crate) fn plain(session: &Session) -> Result<HostMemory, ort::Error> {
        HostMemory::of(session, MemoryInfo::cpu()?)
    }

    fn of(session: &Session, info: MemoryInfo) -> Result<HostMemory, ort::Error> {
        let mut allocator: *mut OrtAllocator = ptr::null_mut();
        // SAFETY: session and description are live; the out-pointer is valid. The allocator shares ownership of the
        // session's (`OrtAllocatorImplWrappingIAllocator`) and is released by us.
        check(unsafe { (ort::api().CreateAllocator)(session.ptr(), info.0.as_ptr(), &mut allocator) })?;
        let allocator = NonNull::new(allocator).ok_or_else(|| ort::Error::new("no allocator of host memory"))?;
        Ok(HostMemory { allocator, info })
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: made by us, and every block of it held a reference to this until it was freed.
        unsafe { (ort::api().ReleaseAllocator)(self.allocator.as_ptr()) };
    }
}

/// A run of bytes of such memory, zeroed once; its start is aligned for every element type.
pub(super) struct Block {
    start: NonNull<u8>,
    bytes: usize,
    memory: Arc<HostMemory>,
}

// SAFETY: a block owns its bytes as a box does, and its memory may be freed on any thread (see `HostMemory`).
unsafe impl Send for Block {}

impl Block {
    /// At least so many bytes, above 0.
    pub(super) fn new(memory: &Arc<HostMemory>, bytes: usize) -> Result<Block, ort::Error> {
        let bytes = bytes.max(1).next_multiple_of(PAGE);
        let mut start: *mut c_void = ptr::null_mut();
        // SAFETY: the allocator is live; the out-pointer is valid.
        check(unsafe { (ort::api().AllocatorAlloc)(memory.allocator.as_ptr(), bytes, &mut start) })?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| ort::Error::new(format!("{bytes} bytes of pinned memory cannot be had")))?;
        let block = Block { start, bytes, memory: Arc::clone(memory) };
        if !start.as_ptr().addr().is_multiple_of(Buffer::ALIGNMENT) {
            return Err(ort::Error::new("the allocator of host memory does not align it"));
        }
        // SAFETY: the call succeeded, so that `bytes` bytes at `start` are ours. Host memory is written as any other.
        unsafe { ptr::write_bytes(start.as_ptr(), 0, bytes) };
        Ok(block)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the bytes are ours and initialised. A run that writes to them has a borrow of the block's owner that
        // allows no other, and is over when it returns: `Run` waits for the provider's stream.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub(super) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Makes a value over the first bytes. It must not outlive the block.
    pub(super) fn value(&mut self, dtype: DataType, shape: &Shape, bytes: usize) -> Result<*mut OrtValue, ort::Error> {
        assert!(bytes <= self.bytes, "a block of {} bytes holds no {bytes}", self.bytes);
        value_over(&self.memory.info, self.start.as_ptr(), bytes, shape, dtype)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the bytes came from this allocator, are freed once, and no run uses them (see `as_bytes`). That a
        // block cannot be freed is nothing anybody could act on.
        let _ = check(unsafe {
            (ort::api().AllocatorFree)(self.memory.allocator.as_ptr(), self.start.as_ptr().cast::<c_void>())
        });
    }
}

/// A session's staging, for one run at a time. It is dropped before its session.
pub(crate) struct Staging {
    memory: Arc<HostMemory>,
    /// By input: whether it is read on the device.
    is_staged: Vec<bool>,
    inputs: Vec<Option<Block>>,
}

impl Staging {
    /// Staging for the inputs that `is_staged`, in the signature's order; see [`on_device`].
    pub(crate) fn new(memory: HostMemory, is_staged: Vec<bool>) -> Staging {
        let inputs = is_staged.iter().map(|_| None).collect();
        Staging { memory: Arc::new(memory), is_staged, inputs }
    }

    /// Begins anew, without what was ever taken in.
    pub(crate) fn renew(&mut self) {
        self.inputs.fill_with(|| None);
    }

    /// Copies an input in and makes a value over it; `None` where it is better lent from where it is.
    pub(super) fn take_in(&mut self, position: usize, tensor: &Tensor) -> Result<Option<*mut OrtValue>, ort::Error> {
        let Some(bytes) = tensor.bytes() else { return Ok(None) };
        if !self.is_staged[position] || !(1..=BYTES_MAX).contains(&bytes.len()) {
            return Ok(None);
        }
        let block = grown(&mut self.inputs[position], &self.memory, bytes.len())?;
        block.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        block.value(tensor.dtype(), tensor.shape(), bytes.len()).map(Some)
    }
}

/// The block, which holds at least so many bytes afterwards. Batches grow to the largest there may be and no further.
fn grown<'a>(
    block: &'a mut Option<Block>,
    memory: &Arc<HostMemory>,
    bytes: usize,
) -> Result<&'a mut Block, ort::Error> {
    if block.as_ref().is_none_or(|block| block.bytes < bytes) {
        // The old one first: the allocator may give its bytes again.
        *block = None;
    }
    Ok(match block {
        Some(block) => block,
        none => none.insert(Block::new(memory, bytes)?),
    })
}

/// By input of the signature: whether a session reads it on a GPU. One that is not the graph's own input, since it
/// replaces a constant, counts as not.
pub(crate) fn on_device(session: &Session, signature: &Signature) -> Result<Vec<bool>, ort::Error> {
    let inputs = session.inputs();
    let mut places: Vec<*const OrtMemoryInfo> = vec![ptr::null(); inputs.len()];
    // SAFETY: the session is live, and there is room for as many answers as it has inputs.
    check(unsafe { (ort::api().SessionGetMemoryInfoForInputs)(session.ptr(), places.as_mut_ptr(), places.len()) })?;
    let is_on_gpu = |place: *const OrtMemoryInfo| {
        let mut kind = OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
        // SAFETY: the description belongs to the session; the out-pointer is valid.
        unsafe { (ort::api().MemoryInfoGetDeviceType)(place, &mut kind) };
        kind == OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_GPU
    };
    let place_of = |name: &str| inputs.iter().zip(&places).find(|(input, _)| input.name() == name).map(|(_, &at)| at);
    let is_read_there = |name: &str| place_of(name).is_some_and(|place| !place.is_null() && is_on_gpu(place));
    Ok(signature.inputs.iter().map(|input| is_read_there(&input.name)).collect())
}
