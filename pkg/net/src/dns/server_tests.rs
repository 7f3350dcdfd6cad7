use super::*;
use hickory_proto::op::{Edns, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use std::net::Ipv4Addr;

/// Members of the large headless Service: more than fit into a packet.
const MANY: usize = 120;

fn large_index() -> Index {
    let mut index = Index::default();
    let service = json!({"metadata": {"namespace": "default", "name": "many"}, "spec": {"clusterIP": "None"}});
    index.apply_service(&serde_json::from_value::<Service>(service).expect("service"));
    let endpoints: Vec<_> = (0..MANY).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    let slice = json!({
        "metadata": {"namespace": "default", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
        "addressType": "IPv4", "endpoints": endpoints,
    });
    index.apply_slice(None, &serde_json::from_value::<EndpointSlice>(slice).expect("slice"));
    let service = json!({"metadata": {"namespace": "default", "name": "out"}, "spec": {"type": "ExternalName", "externalName": "many.default.svc.cluster.local"}});
    index.apply_service(&serde_json::from_value::<Service>(service).expect("service"));
    index
}

async fn start() -> (SocketAddr, CancellationToken) {
    let zone = Zone::new("cluster.local", Ipv4Addr::new(10, 43, 0, 10), Vec::new()).expect("zone");
    let upstreams = Upstreams::new(std::path::Path::new("/nonexistent/resolv.conf"), Vec::new());
    let index = Arc::new(RwLock::new(large_index()));
    let server = Server::bind(([127, 0, 0, 1], 0).into(), zone, index, upstreams).await.expect("bind");
    let (address, shutdown) = (server.address().expect("address"), CancellationToken::new());
    tokio::spawn(server.run(shutdown.clone()));
    (address, shutdown)
}

async fn exchange(address: SocketAddr, packet: &[u8]) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    socket.send_to(packet, address).await.expect("send");
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_millis(500), socket.recv_from(&mut buffer)).await;
    let (length, _) = received.ok()?.expect("receive");
    Some(Message::from_vec(&buffer[..length]).expect("a message"))
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), RecordType::A));
    message
}

const NAME: &str = "many.default.svc.cluster.local.";

#[tokio::test]
async fn what_does_not_fit_is_truncated_and_comes_whole_over_tcp() {
    let (address, shutdown) = start().await;
    let mut message = question(NAME);
    let plain = exchange(address, &message.to_vec().expect("bytes")).await.expect("answer");
    assert!(plain.metadata.truncation && plain.metadata.authoritative && plain.answers.len() < MANY);
    message.set_edns(Edns::new().set_max_payload(4096).clone());
    let large = exchange(address, &message.to_vec().expect("bytes")).await.expect("answer");
    assert!(!large.metadata.truncation && large.edns.is_some());
    assert_eq!(large.answers.len(), MANY);

    let mut stream = TcpStream::connect(address).await.expect("connect");
    for _ in 0..2 {
        let bytes = question(NAME).to_vec().expect("bytes");
        stream.write_u16(bytes.len() as u16).await.expect("write");
        stream.write_all(&bytes).await.expect("write");
        let packet = read_packet_of_any_length(&mut stream).await;
        assert_eq!(Message::from_vec(&packet).expect("a message").answers.len(), MANY);
    }
    shutdown.cancel();
}

async fn read_packet_of_any_length(stream: &mut TcpStream) -> Vec<u8> {
    let mut packet = vec![0; usize::from(stream.read_u16().await.expect("length"))];
    stream.read_exact(&mut packet).await.expect("packet");
    packet
}

#[tokio::test]
async fn nonsense_gets_an_error_or_nothing_and_the_server_lives() {
    let (address, shutdown) = start().await;
    let good = question(NAME).to_vec().expect("bytes");
    assert_eq!(exchange(address, b"").await, None);
    assert_eq!(exchange(address, &good[..11]).await, None, "no header");
    let cut = exchange(address, &good[..20]).await.expect("answer");
    assert_eq!(cut.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(cut.metadata.id, u16::from_be_bytes([good[0], good[1]]));
    let mut two = question(NAME);
    two.add_query(two.queries[0].clone());
    let two = exchange(address, &two.to_vec().expect("bytes")).await.expect("answer");
    assert_eq!(two.metadata.response_code, ResponseCode::FormErr);
    let mut update = question(NAME);
    update.metadata.op_code = OpCode::Notify;
    let update = exchange(address, &update.to_vec().expect("bytes")).await.expect("answer");
    assert_eq!(update.metadata.response_code, ResponseCode::NotImp);
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(exchange(address, &answer).await, None, "answers are never answered");
    let mut pointer = good.clone();
    pointer[12] = 0xc0;
    pointer[13] = 12;
    let pointer = exchange(address, &pointer).await.expect("answer");
    assert_eq!(pointer.metadata.response_code, ResponseCode::FormErr, "a name that points to itself");
    assert!(exchange(address, &good).await.is_some());
    shutdown.cancel();
}

#[tokio::test]
async fn every_cut_and_every_flipped_byte_leaves_the_server_answering() {
    let (address, shutdown) = start().await;
    let good = question(NAME).to_vec().expect("bytes");
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    for position in 0..good.len() {
        for value in [0x00, 0x3f, 0x7f, 0xc0, 0xff] {
            let mut bad = good.clone();
            bad[position] = value;
            socket.send_to(&bad, address).await.expect("send");
        }
        socket.send_to(&good[..position], address).await.expect("send");
    }
    assert!(exchange(address, &good).await.is_some());
    shutdown.cancel();
}

#[tokio::test]
async fn without_other_resolvers_the_rest_of_the_world_fails() {
    let (address, shutdown) = start().await;
    let answer = exchange(address, &question("example.com.").to_vec().expect("bytes")).await.expect("answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    shutdown.cancel();
}

#[tokio::test]
async fn an_alias_into_the_zone_is_complete() {
    let (address, shutdown) = start().await;
    let mut message = question("out.default.svc.cluster.local.");
    message.set_edns(Edns::new().set_max_payload(4096).clone());
    let answer = exchange(address, &message.to_vec().expect("bytes")).await.expect("answer");
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(answer.answers.len(), 1 + MANY);
    shutdown.cancel();
}

#[tokio::test]
async fn forwards_and_remembers() {
    // A resolver that answers each question once.
    let upstream = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let port = upstream.local_addr().expect("address").port();
    let answering = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        let (length, client) = upstream.recv_from(&mut buffer).await.expect("receive");
        let request = Message::from_vec(&buffer[..length]).expect("message");
        let mut answer = Message::response(request.metadata.id, OpCode::Query);
        answer.add_queries(request.queries.clone());
        let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 7));
        answer.add_answer(hickory_proto::rr::Record::from_rdata(request.queries[0].name().clone(), 60, data));
        upstream.send_to(&answer.to_vec().expect("bytes"), client).await.expect("send");
    });
    let zone = Zone::new("cluster.local", Ipv4Addr::new(10, 43, 0, 10), Vec::new()).expect("zone");
    let upstreams = Upstreams::fixed(vec![([127, 0, 0, 1], port).into()]);
    let server = Server::bind(([127, 0, 0, 1], 0).into(), zone, Arc::default(), upstreams).await.expect("bind");
    let (address, shutdown) = (server.address().expect("address"), CancellationToken::new());
    tokio::spawn(server.run(shutdown.clone()));
    for _ in 0..2 {
        let message = question("example.com.");
        let answer = exchange(address, &message.to_vec().expect("bytes")).await.expect("answer");
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.7");
    }
    answering.await.expect("asked just once");
    shutdown.cancel();
}
