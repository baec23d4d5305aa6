//! How does one gRPC stream carry one request after the other, as a client does that stays for days?

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use prost::Message;
use tiltyard_proto::inference as pb;

use super::asked::{STREAM, head};
use crate::client::{Failure, Way, connect};

/// An open call of `ModelStreamInfer`, on a connection of its own.
pub(super) struct Stream {
    send: SendStream<Bytes>,
    /// Until the answer's head is there.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// What has arrived and is not read yet.
    received: BytesMut,
}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::Broken(why.to_string())
}

impl Stream {
    /// Connects and opens the call.
    pub(super) async fn open(address: SocketAddr) -> Result<Stream, Failure> {
        let Some(Way::Http2(mut sender)) = connect(address, true, 1, 1).await?.pop() else {
            return Err(broken("the connection is not HTTP/2"));
        };
        poll_fn(|context| sender.poll_ready(context)).await.map_err(broken)?;
        let head = head(address, STREAM).map_err(broken)?;
        let (response, send) = sender.send_request(head, false).map_err(broken)?;
        Ok(Stream { send, response: Some(response), body: None, received: BytesMut::new() })
    }

    /// Sends a message and waits for its answer. After a failure the stream is of no use any more.
    pub(super) async fn exchange(&mut self, message: Bytes) -> Result<pb::ModelInferResponse, Failure> {
        self.send.send_data(message, false).map_err(broken)?;
        let Some(message) = self.next().await? else { return Err(broken("the stream ended before its answer")) };
        match message.infer_response {
            Some(answer) if message.error_message.is_empty() => Ok(answer),
            _ => Err(Failure::Grpc(message.error_message)),
        }
    }

    /// Says that nothing more comes, and waits until the server ends the stream well.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.send.send_data(Bytes::new(), true).map_err(broken)?;
        match self.next().await? {
            None => Ok(()),
            Some(_) => Err(broken("an answer that nobody asked for")),
        }
    }

    /// The next message; `None` at the stream's good end.
    async fn next(&mut self) -> Result<Option<pb::ModelStreamInferResponse>, Failure> {
        if let Some(response) = self.response.take() {
            let response = response.await.map_err(broken)?;
            if response.status() != http::StatusCode::OK {
                return Err(Failure::Http(response.status().as_u16()));
            }
            if let Some(status) = response.headers().get("grpc-status").filter(|status| *status != "0") {
                return Err(Failure::Grpc(format!("{status:?}")));
            }
            self.body = Some(response.into_body());
        }
        let body = self.body.as_mut().ok_or_else(|| broken("the stream has failed before"))?;
        loop {
            if let Some(message) = take_frame(&mut self.received) {
                return pb::ModelStreamInferResponse::decode(message).map(Some).map_err(broken);
            }
            let Some(data) = body.data().await else { break };
            let data = data.map_err(broken)?;
            body.flow_control().release_capacity(data.len()).map_err(broken)?;
            self.received.extend_from_slice(&data);
        }
        let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(broken)?;
        match trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")) {
            Some(status) if status == "0" => Ok(None),
            Some(status) => Err(Failure::Grpc(format!("{status:?}"))),
            None => Err(broken("the stream has no grpc-status")),
        }
    }
}

/// The first whole message behind gRPC's prefix, where there is one.
fn take_frame(received: &mut BytesMut) -> Option<Bytes> {
    let length = received.get(1..5)?.try_into().ok().map(u32::from_be_bytes)? as usize;
    if received.len() < 5 + length {
        return None;
    }
    received.advance(5);
    Some(received.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut received = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(take_frame(&mut received), None);
        received.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(take_frame(&mut received).as_deref(), Some(&[7, 8][..]));
        assert_eq!(take_frame(&mut received).as_deref(), Some(&[][..]));
        assert_eq!(received.len(), 1);
    }
}
