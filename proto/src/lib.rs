//! Which messages travel over the gRPC APIs? The types only: no logic, no transport.
//!
//! The code comes from `proto/*.proto` and is committed, so that nobody needs a compiler for them to build. The test
//! `generated_code_is_fresh` compares the two, and rewrites the code where `TILTYARD_REGENERATE=1` is set.
//!
//! Fields of type `bytes` are [`bytes::Bytes`]: decoding from a `Bytes` makes them slices of the received buffer.

// The one place of exceptions for generated code. It is included and not declared as files of modules, so that rustfmt
// leaves it as its generator wrote it.
#![allow(missing_docs, clippy::all)]

/// The encoded `google.protobuf.FileDescriptorSet` of all files, imports included: what reflection hands out.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

/// Package `inference`: the Open Inference Protocol, with the extensions of Triton's clients, and model configurations.
pub mod inference {
    include!("generated/inference.rs");
}

/// Package `grpc.health.v1`.
pub mod health {
    include!("generated/grpc.health.v1.rs");
}

/// Packages `grpc.reflection.*`.
pub mod reflection {
    /// Package `grpc.reflection.v1`.
    pub mod v1 {
        include!("generated/grpc.reflection.v1.rs");
    }

    /// Package `grpc.reflection.v1alpha`: the same messages for tools that know the older name.
    pub mod v1alpha {
        include!("generated/grpc.reflection.v1alpha.rs");
    }
}
