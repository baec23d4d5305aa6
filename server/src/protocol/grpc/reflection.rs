//! What does this server speak, told to a client that has none of our .proto files?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use prost::{DecodeError, Message};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use tiltyard_proto::reflection::v1::server_reflection_request::MessageRequest;
use tiltyard_proto::reflection::v1::server_reflection_response::MessageResponse;
use tiltyard_proto::reflection::v1::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse,
    ServiceResponse,
};
use tiltyard_types::Result;
use tokio::sync::watch;

use super::wire::{
    Code, Encoder, GrpcBody, Head, MESSAGE_TIME_MAX, MessageSender, MessageStream, Status, late, streaming_response,
};
use crate::drain::{self, Phase};
use crate::{clock, deadlines};

/// The paths of the service's only method, in its two versions. They differ in nothing but the name, so that the types of
/// one read and write both.
pub(crate) const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The longest request: a symbol's or a file's name.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The reflection service.
#[derive(Clone)]
pub(crate) struct Reflection {
    index: Arc<Index>,
}

struct Index {
    files: BTreeMap<String, File>,
    /// Full names of messages, enums, services and methods, each with the file that declares it.
    file_of_symbol: BTreeMap<String, String>,
    services: Vec<String>,
}

struct File {
    encoded: Bytes,
    imports: Vec<String>,
}

/// A `FileDescriptorSet` whose files stay encoded, since that is how clients get them.
#[derive(Clone, PartialEq, Message)]
struct EncodedFiles {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<Bytes>,
}

impl Reflection {
    /// Over an encoded `FileDescriptorSet`, imports included. Fails where it is none.
    pub(crate) fn new(descriptor_set: &'static [u8]) -> Result<Reflection, DecodeError> {
        let mut index = Index { files: BTreeMap::new(), file_of_symbol: BTreeMap::new(), services: Vec::new() };
        for encoded in EncodedFiles::decode(Bytes::from_static(descriptor_set))?.files {
            let descriptor = FileDescriptorProto::decode(encoded.clone())?;
            index.add(&descriptor, encoded);
        }
        Ok(Reflection { index: Arc::new(index) })
    }

    /// The answer to a call of either version. `may` fails where its caller may not ask any more.
    pub(crate) fn answer<B>(
        &self,
        request: &Parts,
        body: B,
        phases: watch::Receiver<Phase>,
        may: impl Fn() -> Result<()> + Send + 'static,
    ) -> Response<GrpcBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let index = Arc::clone(&self.index);
        match MessageStream::new(&Head::of(&request.headers), body, MESSAGE_BYTES_MAX) {
            Ok(requests) => {
                streaming_response(Encoder::PLAIN, 1, |sender| converse(index, requests, phases, may, sender))
            }
            Err(status) => status.into_response(),
        }
    }
}

/// Answers request after request, until the client has no more or the server drains.
async fn converse<B>(
    index: Arc<Index>,
    mut requests: MessageStream<B>,
    mut phases: watch::Receiver<Phase>,
    may: impl Fn() -> Result<()>,
    sender: MessageSender,
) -> Result<(), Status>
where
    B: Body<Data = Bytes> + Unpin,
{
    while requests.begins(drain::reached(&mut phases, Phase::Draining)).await? {
        let next = deadlines::within(clock::now() + MESSAGE_TIME_MAX, requests.next(None));
        let Some(message) = next.await.ok_or_else(late)?? else { return Ok(()) };
        may()?;
        let request = ServerReflectionRequest::decode(message).map_err(|error| {
            Status::new(Code::InvalidArgument, format!("the request is no reflection request: {error}"))
        })?;
        sender.send(&index.response(request)).await?;
    }
    Err(Status::shutting_down())
}

impl Index {
    fn add(&mut self, file: &FileDescriptorProto, encoded: Bytes) {
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message, file.name());
        }
        for declared in &file.enum_type {
            self.add_enum(package, declared, file.name());
        }
        for service in &file.service {
            let service_name = full_name(package, service.name());
            for method in &service.method {
                self.add_symbol(full_name(&service_name, method.name()), file.name());
            }
            self.add_symbol(service_name.clone(), file.name());
            self.services.push(service_name);
        }
        self.files.insert(file.name().to_owned(), File { encoded, imports: file.dependency.clone() });
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file_name: &str) {
        let message_name = full_name(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(&message_name, nested, file_name);
        }
        for declared in &message.enum_type {
            self.add_enum(&message_name, declared, file_name);
        }
        self.add_symbol(message_name, file_name);
    }

    fn add_enum(&mut self, scope: &str, declared: &EnumDescriptorProto, file_name: &str) {
        self.add_symbol(full_name(scope, declared.name()), file_name);
    }

    fn add_symbol(&mut self, symbol: String, file_name: &str) {
        self.file_of_symbol.insert(symbol, file_name.to_owned());
    }

    fn response(&self, request: ServerReflectionRequest) -> ServerReflectionResponse {
        let message_response = match &request.message_request {
            Some(MessageRequest::ListServices(_)) => {
                let service = self.services.iter().map(|name| ServiceResponse { name: name.clone() }).collect();
                MessageResponse::ListServicesResponse(ListServiceResponse { service })
            }
            Some(MessageRequest::FileByFilename(name)) => self.file(name),
            Some(MessageRequest::FileContainingSymbol(symbol)) => match self.file_of_symbol.get(symbol) {
                Some(name) => self.file(name),
                None => error(Code::NotFound, format!("there is no symbol {symbol:?}")),
            },
            Some(MessageRequest::FileContainingExtension(extension)) => {
                error(Code::NotFound, format!("there are no extensions of {:?}", extension.containing_type))
            }
            Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
                error(Code::NotFound, format!("there are no extensions of {name:?}"))
            }
            None => error(Code::InvalidArgument, "the request asks for nothing".to_owned()),
        };
        ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(message_response),
        }
    }

    /// A file, and then everything that it imports, so that one answer is enough to understand it.
    fn file(&self, name: &str) -> MessageResponse {
        let mut file_descriptor_proto = Vec::new();
        let mut seen = BTreeSet::from([name]);
        let mut wanted = vec![name];
        while let Some(name) = wanted.pop() {
            let Some(file) = self.files.get(name) else { continue };
            file_descriptor_proto.push(file.encoded.clone());
            wanted.extend(file.imports.iter().map(String::as_str).filter(|&import| seen.insert(import)));
        }
        if file_descriptor_proto.is_empty() {
            return error(Code::NotFound, format!("there is no file {name:?}"));
        }
        MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
    }
}

fn full_name(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

fn error(code: Code, error_message: String) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code as i32, error_message })
}
