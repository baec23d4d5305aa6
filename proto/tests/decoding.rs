//! Does decoding leave tensors where they were received?

use bytes::Bytes;
use prost::Message;
use tiltyard_proto::inference::ModelInferRequest;

#[test]
fn raw_tensors_are_slices_of_the_received_buffer() {
    let request = ModelInferRequest {
        model_name: "risk".to_owned(),
        raw_input_contents: vec![vec![7; 4096].into(), vec![9; 64].into()],
        ..Default::default()
    };
    let received = Bytes::from(request.encode_to_vec());
    let range = received.as_ptr_range();
    let decoded = ModelInferRequest::decode(received.clone()).expect("it decodes");
    assert_eq!(decoded, request);
    for raw in &decoded.raw_input_contents {
        assert!(range.contains(&raw.as_ptr()), "a tensor was copied out of the received buffer");
    }
}
