//! Does the wire hold, whatever the client sends and however it is cut?

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io::{Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};
use prost::Message;
use tiltyard_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tiltyard_proto::inference::ModelInferResponse;
use tiltyard_proto::reflection::v1::server_reflection_request::MessageRequest;
use tiltyard_proto::reflection::v1::server_reflection_response::MessageResponse;
use tiltyard_proto::reflection::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tokio::sync::watch;

use super::super::health::Health;
use super::super::reflection::Reflection;
use super::respond::prefix;
use super::{
    Code, CompressionPolicy, Encoder, GrpcBody, Head, MessageStream, Status, frame, read_message, refusal,
    streaming_response, timeout, unary_response, unary_response_with,
};
use crate::drain::Phase;

const LIMIT: usize = 1 << 20;

/// A request's body that arrives in these pieces, and counts what is taken from it.
struct Pieces {
    waiting: VecDeque<Bytes>,
    /// Whether the last piece says that it is the last, or a look behind it is needed.
    announces_end: bool,
    /// How many pieces were taken.
    taken: Arc<AtomicUsize>,
}

impl Pieces {
    fn new(pieces: impl IntoIterator<Item = Bytes>) -> Pieces {
        Pieces { waiting: pieces.into_iter().collect(), announces_end: true, taken: Arc::default() }
    }

    fn one(bytes: impl Into<Bytes>) -> Pieces {
        Pieces::new([bytes.into()])
    }

    /// The bytes, cut at these places.
    fn cut(bytes: Bytes, places: &[usize], announces_end: bool) -> Pieces {
        let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let waiting = places.windows(2).map(|ends| bytes.slice(ends[0]..ends[1])).collect();
        Pieces { waiting, announces_end, taken: Arc::default() }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.taken.fetch_add(1, Relaxed);
        Poll::Ready(self.get_mut().waiting.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.announces_end && self.waiting.is_empty()
    }
}

/// The outcome of a future that has nothing to wait for.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("the future waits"),
    }
}

/// The next frame of a body, `None` where it waits.
fn poll(body: &mut GrpcBody) -> Option<Option<Frame<Bytes>>> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => Some(frame.map(|frame| frame.expect("bodies do not fail"))),
        Poll::Pending => None,
    }
}

/// All data, and the trailers, of a body that does not wait.
fn collect(mut body: GrpcBody) -> (Vec<u8>, HeaderMap) {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll(&mut body).expect("the body waits") {
        match frame.into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().expect("data or trailers"),
        }
    }
    (data, trailers)
}

fn framed(compressed: bool, payload: &[u8]) -> Vec<u8> {
    [&prefix(compressed, payload.len() as u32)[..], payload].concat()
}

fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
    let entry = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
    };
    entries.iter().map(entry).collect()
}

fn gzip(payload: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(payload).and_then(|()| encoder.finish()).expect("memory")
}

fn zlib(payload: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(payload).and_then(|()| encoder.finish()).expect("memory")
}

fn messages_of(headers: &HeaderMap, body: Pieces) -> Result<Vec<Bytes>, Status> {
    let mut stream = MessageStream::new(&Head::of(headers), body, LIMIT)?;
    let mut messages = Vec::new();
    while let Some(message) = ready(stream.next(None))? {
        messages.push(message);
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn messages_survive_any_cut(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5),
        compressed in any::<[bool; 5]>(),
        places in proptest::collection::vec(any::<usize>(), 0..12),
        announces_end in any::<bool>(),
    ) {
        let wire: Vec<u8> = payloads
            .iter()
            .zip(compressed)
            .flat_map(|(payload, compressed)| {
                if compressed { framed(true, &gzip(payload)) } else { framed(false, payload) }
            })
            .collect();
        let body = Pieces::cut(wire.into(), &places, announces_end);
        let messages = messages_of(&headers(&[("grpc-encoding", "gzip")]), body).expect("whole messages");
        prop_assert_eq!(messages, payloads);
    }

    #[test]
    fn a_message_cut_short_is_never_taken_for_whole(
        payload in proptest::collection::vec(any::<u8>(), 1..200),
        places in proptest::collection::vec(any::<usize>(), 0..6),
        (kept, announces_end) in (any::<usize>(), any::<bool>()),
    ) {
        let mut wire = framed(false, &payload);
        wire.truncate(1 + kept % (wire.len() - 1));
        let body = Pieces::cut(wire.into(), &places, announces_end);
        let status = messages_of(&HeaderMap::new(), body).expect_err("half a message");
        prop_assert_eq!(status.code(), Code::Internal);
    }

    #[test]
    fn noise_is_answered_and_never_panics(
        // Often enough right to come far: a small flag, a short length, and then as many bytes or not.
        noise in proptest::collection::vec((0..3u8, 0..40u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        encoding in Just("gzip").boxed().prop_union(Just("deflate").boxed()),
    ) {
        let piece = |(flag, length, payload): (u8, u8, Vec<u8>)| {
            Bytes::from([&[flag, 0, 0, 0, length], &payload[..]].concat())
        };
        let body = Pieces::new(noise.into_iter().map(piece));
        if let Ok(messages) = messages_of(&headers(&[("grpc-encoding", encoding)]), body) {
            prop_assert!(messages.iter().all(|message| message.len() <= LIMIT));
        }
    }

    #[test]
    fn status_messages_come_back_from_their_escapes(message in ".{0,300}") {
        let response = Status::new(Code::NotFound, message.clone()).into_response();
        let encoded = response.headers().get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
        prop_assert!(encoded.iter().all(|byte| (b' '..=b'~').contains(byte)));
        prop_assert_eq!(unescaped(encoded), message);
    }
}

fn unescaped(encoded: &[u8]) -> String {
    let mut plain = Vec::new();
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&after[..2]).expect("ASCII");
            plain.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
            rest = &after[2..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    String::from_utf8(plain).expect("whole characters")
}

#[test]
fn a_message_in_one_piece_is_not_copied() {
    let received = Bytes::from(framed(false, &[7; 4096]));
    let message = ready(read_message(&Head::default(), Pieces::one(received.clone()), LIMIT, None)).expect("a message");
    assert_eq!(message.as_ptr(), received[5..].as_ptr());
}

#[test]
fn unary_requests_that_are_refused() {
    fn check(entries: &[(&'static str, &str)], wire: Vec<u8>, code: Code, text: &str) {
        let status = ready(read_message(&Head::of(&headers(entries)), Pieces::one(wire), 1000, None)).expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
    }
    let two = [framed(false, b"a"), framed(false, b"b")].concat();
    check(&[], vec![], Code::Unimplemented, "the call takes one message; the client sent none");
    check(&[], two, Code::Unimplemented, "the call takes one message; the client sent more");
    check(&[], vec![0, 0], Code::Internal, "the request ends after 2 of the 5 bytes before a message");
    check(&[], vec![0, 0, 0, 0, 9, 1, 2], Code::Internal, "the request ends after 2 of the 9 bytes of a message");
    check(&[], vec![7, 0, 0, 0, 0], Code::Internal, "a message's compression flag is 7; expected 0 or 1");
    let text = "the message has 1001 bytes, more than the limit of 1000 bytes";
    check(&[], framed(false, &[0; 1001]), Code::ResourceExhausted, text);
    let text = "a message is flagged as compressed, but no grpc-encoding says how";
    check(&[], framed(true, &gzip(b"a")), Code::Internal, text);
    check(&[("grpc-encoding", "identity")], framed(true, &gzip(b"a")), Code::Internal, text);
    let mut padded = gzip(b"a");
    padded.extend([0; 3]);
    let text = "the message cannot be decompressed: it ends 3 bytes early";
    check(&[("grpc-encoding", "gzip")], framed(true, &padded), Code::Internal, text);
}

#[test]
fn a_message_at_the_limit_is_taken() {
    for (flag, encoding, payload) in [(false, "identity", vec![3; 1000]), (true, "gzip", gzip(&[3; 1000]))] {
        let body = Pieces::one(framed(flag, &payload));
        let message =
            ready(read_message(&Head::of(&headers(&[("grpc-encoding", encoding)])), body, 1000, None)).expect(encoding);
        assert_eq!(message, vec![3; 1000]);
    }
}

#[test]
fn an_oversized_message_is_refused_before_it_is_read() {
    let mut body = Pieces::new([Bytes::from(prefix(false, u32::MAX).to_vec())]);
    body.waiting.extend((0..100).map(|_| Bytes::from(vec![0; 1000])));
    let taken = Arc::clone(&body.taken);
    let status = ready(read_message(&Head::default(), body, 1000, None)).expect_err("4 GiB");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(taken.load(Relaxed), 1, "data was read behind the length that was refused");
}

#[test]
fn a_compressed_bomb_is_refused() {
    for (encoding, bomb) in [("gzip", gzip(&vec![0; 100 * LIMIT])), ("deflate", zlib(&vec![0; 100 * LIMIT]))] {
        assert!(bomb.len() < LIMIT, "the bomb has to pass the first limit");
        let body = Pieces::one(framed(true, &bomb));
        let status = ready(read_message(&Head::of(&headers(&[("grpc-encoding", encoding)])), body, LIMIT, None))
            .expect_err("a bomb");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let sizes = format!("{} bytes compressed and more than the limit of {LIMIT} bytes plain", bomb.len());
        assert!(status.message().contains(&sizes), "{status}");
    }
}

#[test]
fn broken_compression_is_refused() {
    let mut broken = gzip(&[9; 500]);
    let middle = broken.len() / 2;
    broken[middle] ^= 0xFF;
    for (encoding, payload) in [("gzip", broken), ("gzip", gzip(&[9; 500])[..20].to_vec()), ("deflate", gzip(b"a"))] {
        let body = Pieces::one(framed(true, &payload));
        let status = ready(read_message(&Head::of(&headers(&[("grpc-encoding", encoding)])), body, LIMIT, None))
            .expect_err(encoding);
        assert_eq!(status.code(), Code::Internal, "{status}");
    }
}

#[test]
fn an_unknown_encoding_is_refused_with_the_known_ones() {
    let outcome = ready(read_message(
        &Head::of(&headers(&[("grpc-encoding", "zstd")])),
        Pieces::one(framed(true, b"a")),
        LIMIT,
        None,
    ));
    let response = outcome.expect_err("not offered").into_response();
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity,deflate,gzip");
}

#[test]
fn timeouts() {
    fn check(value: &str, expected: Option<Duration>) {
        let outcome = timeout(&Head::of(&headers(&[("grpc-timeout", value)])));
        match expected {
            Some(_) => assert_eq!(outcome.as_ref(), Ok(&expected), "{value:?}"),
            None => assert_eq!(outcome.map_err(|status| status.code()), Err(Code::InvalidArgument), "{value:?}"),
        }
    }
    check("2H", Some(Duration::from_secs(7200)));
    check("3M", Some(Duration::from_secs(180)));
    check("0S", Some(Duration::ZERO));
    check("250m", Some(Duration::from_millis(250)));
    check("00000001u", Some(Duration::from_micros(1)));
    check("99999999n", Some(Duration::from_nanos(99_999_999)));
    check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
    for malformed in ["", "S", "5", "5s", "5 S", "-5S", "1.5S", "123456789S", "5SS", "٣S"] {
        check(malformed, None);
    }
    assert_eq!(timeout(&Head::default()), Ok(None));
}

#[test]
fn requests_that_are_no_calls() {
    fn check(content_type: Option<&str>, method: Method, version: Version, expected: Option<StatusCode>) {
        let mut request = Request::new(());
        (*request.method_mut(), *request.version_mut()) = (method, version);
        if let Some(value) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(value).expect("a header"));
        }
        let (parts, ()) = request.into_parts();
        let refused = refusal(&parts, &Head::of(&parts.headers)).map(|response| response.status());
        assert_eq!(refused, expected, "{content_type:?}");
    }
    let unsupported = Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for ours in ["application/grpc", "application/grpc+proto", "Application/gRPC", "application/grpc; charset=utf-8"] {
        check(Some(ours), Method::POST, Version::HTTP_2, None);
    }
    for foreign in ["application/grpc+json", "application/grpc-web", "application/grpcx", "application/json", ""] {
        check(Some(foreign), Method::POST, Version::HTTP_2, unsupported);
    }
    check(None, Method::POST, Version::HTTP_2, unsupported);
    check(Some("application/grpc"), Method::GET, Version::HTTP_2, Some(StatusCode::METHOD_NOT_ALLOWED));
    let too_old = Some(StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    check(Some("application/grpc"), Method::POST, Version::HTTP_11, too_old);
}

#[test]
fn an_error_is_trailers_only() {
    let status = Status::new(Code::ResourceExhausted, "50 % zu groß\n")
        .with(HeaderName::from_static("grpc-retry-pushback-ms"), HeaderValue::from_static("20"));
    let response = status.into_response();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "8");
    assert_eq!(response.headers()["grpc-message"], "50 %25 zu gro%C3%9F%0A");
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "20");
    assert!(response.body().is_end_stream());
    assert_eq!(collect(response.into_body()), (vec![], HeaderMap::new()));
}

#[test]
fn a_long_error_ends_after_a_whole_character() {
    let response = Status::new(Code::Internal, "€".repeat(5000)).into_response();
    let encoded = response.headers()["grpc-message"].as_bytes();
    assert_eq!(unescaped(encoded), "€".repeat(4096 / 9));
}

fn answer(bytes: usize) -> ModelInferResponse {
    ModelInferResponse { id: "1".to_owned(), raw_output_contents: vec![vec![5; bytes].into()], ..Default::default() }
}

#[test]
fn a_unary_answer_is_one_frame_of_data_and_trailers() {
    let response = unary_response(frame(&answer(100)).expect("small"));
    assert_eq!(response.headers(), &headers(&[("content-type", "application/grpc")]));
    let made = headers(&[("content-type", "application/grpc"), ("tiltyard-version", "3")]);
    let response = unary_response_with(frame(&answer(100)).expect("small"), made.clone());
    assert_eq!(response.headers(), &made);
    let mut body = response.into_body();
    assert!(!body.is_end_stream());
    let data = poll(&mut body).flatten().and_then(|frame| frame.into_data().ok()).expect("the message first");
    assert_eq!(data, framed(false, &answer(100).encode_to_vec()));
    let (data, trailers) = collect(body);
    assert_eq!((data.len(), trailers), (0, headers(&[("grpc-status", "0")])));
}

#[test]
fn answers_are_compressed_where_both_sides_want_it() {
    fn check(accepted: &str, enabled: bool, bytes: usize, expected: bool) {
        let policy = CompressionPolicy { enabled, message_bytes_min: 1000 };
        let encoder = Encoder::negotiate(&Head::of(&headers(&[("grpc-accept-encoding", accepted)])), policy);
        let response = unary_response(encoder.frame(&answer(bytes)).expect("small"));
        let encoding = response.headers().get("grpc-encoding").cloned();
        let (data, _) = collect(response.into_body());
        assert_eq!(encoding.is_some(), expected, "{accepted:?}, {enabled}, {bytes}");
        assert_eq!(data[..5], prefix(expected, data.len() as u32 - 5));
        let mut plain = data[5..].to_vec();
        if expected {
            plain.clear();
            GzDecoder::new(&data[5..]).read_to_end(&mut plain).expect("gzip");
            assert!(data.len() < bytes / 2);
        }
        assert_eq!(plain, answer(bytes).encode_to_vec());
    }
    check("identity, deflate, gzip", true, 2000, true);
    check("gzip", true, 2000, true);
    check("identity,gzip", true, 100, false);
    check("identity,gzip", false, 2000, false);
    check("identity,deflate,xgzip", true, 2000, false);
}

#[test]
fn what_does_not_shrink_is_sent_plain() {
    let policy = CompressionPolicy { enabled: true, message_bytes_min: 0 };
    let encoder = Encoder::negotiate(&Head::of(&headers(&[("grpc-accept-encoding", "gzip")])), policy);
    assert_eq!(encoder.frame(&answer(1)), frame(&answer(1)));
}

#[test]
fn a_stream_sends_in_order_waits_for_its_client_and_ends_with_its_status() {
    let failure = Status::new(Code::Unavailable, "enough");
    let end = failure.clone();
    let (progress, seen) = watch::channel(0);
    let response = streaming_response(Encoder::PLAIN, 1, |sender| async move {
        for number in 1..=3 {
            sender.send(&answer(number)).await?;
            progress.send_replace(number);
        }
        Err(end)
    });
    let mut body = response.into_body();
    for number in 1..=3 {
        let data = poll(&mut body).flatten().and_then(|frame| frame.into_data().ok()).expect("a message");
        assert_eq!(data, framed(false, &answer(number).encode_to_vec()));
        assert!(*seen.borrow() <= number, "messages are made that nobody waits for");
    }
    let (data, trailers) = collect(body);
    let expected = headers(&[("grpc-status", "14"), ("grpc-message", "enough")]);
    assert_eq!((data.len(), trailers), (0, expected));
}

#[test]
fn a_stream_is_dropped_with_its_client() {
    let (alive, gone) = watch::channel(());
    let response = streaming_response(Encoder::PLAIN, 1, |_sender| async move {
        alive.closed().await;
        std::future::pending().await
    });
    let mut body = response.into_body();
    assert!(gone.has_changed().is_ok());
    assert!(poll(&mut body).is_none(), "there is nothing to send");
    drop(body);
    assert!(gone.has_changed().is_err(), "the call outlived its client");
}

#[test]
fn a_stream_of_which_the_sender_left_early_still_ends_with_its_status() {
    let response = streaming_response(Encoder::PLAIN, 1, |sender| async move {
        drop(sender);
        Ok(())
    });
    assert_eq!(collect(response.into_body()), (vec![], headers(&[("grpc-status", "0")])));
}

/// The parts of a call without any headers of interest.
fn parts() -> http::request::Parts {
    Request::new(()).into_parts().0
}

fn message_of<M: Message + Default>(data: &[u8]) -> M {
    M::decode(&data[5..]).expect("a message behind its prefix")
}

/// The trailers of a call, which are the headers where it has no others.
fn code_of(response: Response<GrpcBody>) -> HeaderValue {
    let head = response.headers().get("grpc-status").cloned();
    head.unwrap_or_else(|| collect(response.into_body()).1["grpc-status"].clone())
}

fn health(
    changes: watch::Receiver<bool>,
    phases: watch::Receiver<Phase>,
) -> Health<impl Fn(&str) -> tiltyard_types::Result<Option<bool>> + Clone + Send + Sync> {
    let state = changes.clone();
    let serving = move |service: &str| Ok(["", "known"].contains(&service).then(|| *state.borrow()));
    Health::new(&["", "known"], serving, changes, phases)
}

fn asked(service: &str) -> Pieces {
    Pieces::one(frame(&HealthCheckRequest { service: service.to_owned() }).expect("small"))
}

#[test]
fn health_is_checked_and_listed() {
    let (change, changes) = watch::channel(true);
    let health = health(changes, watch::channel(Phase::Serving).1);
    let check = |service: &str, expected: i32| {
        let (data, trailers) = collect(ready(health.answer("Check", &parts(), asked(service))).into_body());
        assert_eq!(message_of::<HealthCheckResponse>(&data).status, expected);
        assert_eq!(trailers["grpc-status"], "0");
    };
    check("", 1);
    change.send_replace(false);
    check("known", 2);
    assert_eq!(code_of(ready(health.answer("Check", &parts(), asked("other")))), "5");
    assert_eq!(code_of(ready(health.answer("Chek", &parts(), asked("")))), "12");
    let request = Pieces::one(frame(&HealthListRequest {}).expect("small"));
    let (data, _) = collect(ready(health.answer("List", &parts(), request)).into_body());
    let statuses = message_of::<HealthListResponse>(&data).statuses;
    let listed: Vec<(&str, i32)> = statuses.iter().map(|(name, response)| (name.as_str(), response.status)).collect();
    assert_eq!(listed, [("", 2), ("known", 2)]);
}

#[test]
fn health_is_watched_until_the_server_ends() {
    // Nobody drives it: its time stands still.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let (change, changes) = watch::channel(false);
    let (phase, phases) = watch::channel(Phase::Serving);
    let health = health(changes, phases);
    let mut known = ready(health.answer("Watch", &parts(), asked("known"))).into_body();
    let mut other = ready(health.answer("Watch", &parts(), asked("other"))).into_body();
    let next = |body: &mut GrpcBody| {
        let data = poll(body)?.expect("the stream goes on").into_data().expect("a message");
        Some(message_of::<HealthCheckResponse>(&data).status)
    };
    assert_eq!((next(&mut known), next(&mut known)), (Some(2), None));
    assert_eq!((next(&mut other), next(&mut other)), (Some(3), None));
    change.send_replace(true);
    assert_eq!((next(&mut known), next(&mut known)), (Some(1), None));
    change.send_replace(true);
    phase.send_replace(Phase::Notice);
    assert_eq!(next(&mut known), None, "a state is told twice");
    change.send_replace(false);
    phase.send_replace(Phase::Draining);
    assert_eq!(next(&mut known), Some(2), "the last state is told before the end");
    assert_eq!(collect(known).1["grpc-status"], "14");
}

#[test]
fn a_message_that_has_begun_comes_before_the_end() {
    let begins = |messages: &mut MessageStream<Pieces>| ready(messages.begins(std::future::ready(())));
    let headers = headers(&[]);
    let head = Head::of(&headers);
    let message = framed(false, b"whole");
    let mut messages = MessageStream::new(&head, Pieces::one(message.clone()), LIMIT).expect("no encoding");
    assert_eq!(begins(&mut messages), Ok(true), "what is here is taken");
    assert_eq!(ready(messages.next(None)).expect("a message").as_deref(), Some(&b"whole"[..]));
    let (start, _) = message.split_at(3);
    let mut messages =
        MessageStream::new(&head, Waits(Some(Bytes::copy_from_slice(start))), LIMIT).expect("no encoding");
    assert_eq!(ready(messages.begins(std::future::ready(()))), Ok(true), "what has begun is waited for");
    let mut messages = MessageStream::new(&head, Waits(None), LIMIT).expect("no encoding");
    assert_eq!(ready(messages.begins(std::future::ready(()))), Ok(false), "nothing has begun");
}

/// A body whose client has sent this, or nothing, and then says no more.
struct Waits(Option<Bytes>);

impl Body for Waits {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

/// What reflection says to one request after another, on one stream.
fn reflected(requests: &[MessageRequest]) -> Vec<MessageResponse> {
    let reflection = Reflection::new(tiltyard_proto::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let frames = requests.iter().map(|request| {
        let message_request = Some(request.clone());
        frame(&ServerReflectionRequest { host: "here".to_owned(), message_request }).expect("small")
    });
    let phases = watch::channel(Phase::Serving).1;
    let mut body = reflection.answer(&parts(), Pieces::new(frames), phases, || Ok(())).into_body();
    let mut answers = Vec::new();
    while let Ok(data) = poll(&mut body).flatten().expect("an answer or the end").into_data() {
        let response: ServerReflectionResponse = message_of(&data);
        assert_eq!(response.valid_host, "here");
        assert_eq!(
            response.original_request.and_then(|request| request.message_request).as_ref(),
            requests.get(answers.len())
        );
        answers.push(response.message_response.expect("an answer"));
    }
    assert_eq!(answers.len(), requests.len());
    answers
}

#[test]
fn reflection_lists_the_services() {
    let answers = reflected(&[MessageRequest::ListServices(String::new())]);
    let [MessageResponse::ListServicesResponse(list)] = &answers[..] else { panic!("{answers:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    let expected = [
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    assert_eq!(names, expected);
}

#[test]
fn reflection_finds_files_by_name_and_by_symbol() {
    fn check(request: MessageRequest, expected: &[&str]) {
        let answers = reflected(&[request]);
        let [MessageResponse::FileDescriptorResponse(files)] = &answers[..] else { panic!("{answers:?}") };
        let decode = |file: &Bytes| prost_types::FileDescriptorProto::decode(file.clone()).expect("a descriptor");
        let names: Vec<String> =
            files.file_descriptor_proto.iter().map(|file| decode(file).name().to_owned()).collect();
        assert_eq!(names, expected);
    }
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let inference = ["inference.proto", "model_config.proto"];
    check(MessageRequest::FileByFilename("inference.proto".to_owned()), &inference);
    check(symbol("inference.GRPCInferenceService"), &inference);
    check(symbol("inference.GRPCInferenceService.ModelInfer"), &inference);
    check(symbol("inference.ModelInferRequest.InferInputTensor"), &inference);
    check(symbol("inference.DataType"), &inference[1..]);
    check(symbol("inference.ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind"), &inference[1..]);
    check(symbol("grpc.health.v1.Health.Watch"), &["health.proto"]);
}

#[test]
fn reflection_says_what_is_not_there_and_goes_on() {
    let answers = reflected(&[
        MessageRequest::FileByFilename("other.proto".to_owned()),
        MessageRequest::FileContainingSymbol("inference.Other".to_owned()),
        MessageRequest::FileContainingExtension(Default::default()),
        MessageRequest::AllExtensionNumbersOfType("inference.ModelConfig".to_owned()),
    ]);
    for answer in answers {
        let MessageResponse::ErrorResponse(error) = answer else { panic!("{answer:?}") };
        assert_eq!(error.error_code, Code::NotFound as i32);
    }
}
