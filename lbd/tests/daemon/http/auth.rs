//! Who is let in: names and passwords as curl sends them, and tokens that openssl has signed.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::config;
use super::peers::{Client, Message, Target, ask, get};
use super::real::curl;
use crate::clients::{beside, connect_from};
use crate::support::{Folder, Lbd, command, eventually, free, metric, own_ip, records};

/// Of "open sesame" and "s3cret", by crypt(3).
const ADA: &str = "ada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";
const BOB: &str = "bob:$2y$04$TandemTandemTandemTanOPTSR2VwsHIGvkuvljChuEY/.h8AkZBa\n";

/// Of "slow": a tenth of a second for each comparison.
const SLOW: &str = "slow:$2y$10$TandemTandemTandemTanOANO6cVzAfRuejAIR.AGz6LSRESPtPaS\n";

fn with(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

fn login(name_and_password: &str) -> String {
    with(&format!("Authorization: Basic {}\r\n", BASE64.encode(name_and_password.as_bytes())))
}

fn denied(lbd: &Lbd, reason: &str) -> u64 {
    let all = metric(lbd, "tandem_lbd_service_http_requests_denied_total");
    *all.iter().find(|(labels, _)| labels.contains(&format!("\"{reason}\""))).unwrap().1
}

#[test]
fn names_and_passwords_let_in() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(folder.path().join("users"), format!("# people\n{ADA}{BOB}")).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service =
        "auth = { basic = { users = \"users\", realm = \"the shop\", user_header = \"X-User\" } }\n\
        [[service.rule]]\nwhen = { path = \"/open\" }\nforward = \"pool\"\nauth = \"none\"\n"
            .to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let url = format!("http://{}/a", lbd.address);
    assert_eq!(curl(&["-u", "ada:open sesame", &url, &url]), "insideinside");
    assert_eq!(target.last().field("x-user"), Some("ada"));
    assert_eq!(curl(&["-u", "bob:s3cret", "-H", "X-User: ada", &url]), "inside");
    assert_eq!(target.last().field("x-user"), Some("bob"), "nobody else says who he is");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", "-u", "bob:open sesame", &url]), "401");
    let seen = target.seen().len();
    let mut client = Client::new(lbd.address);
    let refused = |answer: &Message| {
        let challenge = Some("Basic realm=\"the shop\", charset=\"UTF-8\"");
        assert_eq!((answer.status(), answer.field("www-authenticate")), (401, challenge));
    };
    // On one connection, which stays.
    refused(&client.send(get("/a")).answer());
    for wrong in ["ada:", "ada:Open sesame", "eve:open sesame", ":", "ada:open sesame\n"] {
        refused(&client.send(login(wrong)).answer());
    }
    refused(&client.send(with("Authorization: Bearer abc\r\n")).answer());
    assert_eq!(target.seen().len(), seen, "no target has seen one of them");
    assert_eq!(client.send(login("ada:open sesame")).answer().status(), 200);
    client
        .send("GET /open HTTP/1.1\r\nHost: a\r\nX-User: eve\r\nx_user: eve\r\nX.User: eve\r\n\r\n")
        .answer();
    let open = target.last();
    assert_eq!(open.line(), "GET /open HTTP/1.1");
    assert_eq!(["x-user", "x_user", "x.user"].map(|name| open.field(name)), [None; 3]);
    client.send("POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-User: eve\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    assert_eq!((target.last().text(), target.last().trailers.as_str()), ("x", ""));
    assert_eq!((denied(&lbd, "missing"), denied(&lbd, "malformed"), denied(&lbd, "credentials")), (2, 1, 5));
    // Who is taken out of the file is out, whatever was known of him.
    fs::write(lbd.folder.path().join("users"), ADA).unwrap();
    assert_eq!(lbd.reload(&config).0, 200);
    refused(&client.send(login("bob:s3cret")).answer());
    assert_eq!(client.send(login("ada:open sesame")).answer().status(), 200);
    fs::write(lbd.folder.path().join("users"), "ada:open sesame\n").unwrap();
    let (code, why) = lbd.reload(&config);
    assert!(code != 200 && why.contains("none of bcrypt"), "{code} {why}");
    assert_eq!(client.send(login("ada:open sesame")).answer().status(), 200, "the old one stays in force");
}

#[test]
fn what_one_service_tells_of_clients_no_other_one_s_clients_say() {
    let ip = own_ip();
    let (target, other) = (Target::named(ip, "inside"), Target::named(ip, "other"));
    let folder = Folder::new();
    fs::write(folder.path().join("users"), ADA).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service = "auth = { basic = { users = \"users\", user_header = \"X-User\" } }\n".to_owned();
    // One that asks nobody leads to the same target by a rule, to a group of its own; another one does not.
    let (open, apart) = (free(ip), free(ip));
    let service = |name: &str, listen: SocketAddr| {
        format!(
            "[[service]]\nname = \"{name}\"\nmode = \"http\"\nlisten = [\"{listen}\"]\nforward = \"other\"\n"
        )
    };
    let group = |name: &str, target: &Target| {
        format!("[[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"{}\" }}]\n", target.address)
    };
    config.head = [
        service("open", open),
        "[[service.rule]]\nwhen = { path = \"/same\" }\nforward = \"same\"\n".to_owned(),
        service("apart", apart),
        group("same", &target),
        group("other", &other),
    ]
    .concat();
    let lbd = Lbd::start_in(folder, &config);
    assert_eq!(ask(lbd.address, &login("ada:open sesame")).text(), "inside");
    assert_eq!(target.last().field("x-user"), Some("ada"));
    let eve =
        "Host: a\r\nX-User: eve\r\nX_User: eve\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-User: eve\r\n\r\n";
    assert_eq!(ask(open, &format!("POST /same HTTP/1.1\r\n{eve}")).text(), "inside");
    assert_eq!(ask(open, &format!("POST /else HTTP/1.1\r\n{eve}")).text(), "other");
    for seen in [target.last(), other.last()] {
        assert_eq!((seen.field("x-user"), seen.field("x_user"), seen.trailers.as_str()), (None, None, ""));
    }
    // Of what nobody tells these targets everybody may say what he likes.
    assert_eq!(ask(apart, &format!("POST / HTTP/1.1\r\n{eve}")).text(), "other");
    let seen = other.last();
    assert_eq!((seen.field("x-user"), seen.trailers.as_str()), (Some("eve"), "X-User: eve"));
}

#[test]
fn who_guesses_passwords_keeps_nobody_else_waiting() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(folder.path().join("users"), format!("{SLOW}{BOB}")).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service = "auth = { basic = { users = \"users\" } }\n".to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let mut known = Client::new(lbd.address);
    assert_eq!(known.send(login("bob:s3cret")).answer().status(), 200);
    // More of one client at a time than may wait.
    let mut guessing: Vec<Client> = (0..24).map(|_| Client::new(lbd.address)).collect();
    for (number, client) in guessing.iter_mut().enumerate() {
        client.send(login(&format!("slow:guess-{number}")));
    }
    assert_eq!(known.send(login("bob:s3cret")).answer().status(), 200, "known, so nothing is compared");
    let answers: Vec<Message> = guessing.iter_mut().map(Client::answer).collect();
    let count = |status: u16| answers.iter().filter(|answer| answer.status() == status).count();
    assert!(
        count(503) > 0 && count(401) >= 4 && count(503) + count(401) == 24,
        "{} {}",
        count(503),
        count(401)
    );
    assert!(answers.iter().filter(|it| it.status() == 503).all(|it| it.field("retry-after") == Some("1")));
    assert_eq!(denied(&lbd, "busy"), count(503) as u64);
    // Who asks for much at a time with one password, as browsers do, waits for it once.
    let mut many: Vec<Client> = (0..12).map(|_| Client::new(lbd.address)).collect();
    for client in &mut many {
        client.send(login("slow:slow"));
    }
    assert!(many.iter_mut().all(|client| client.answer().status() == 200));
    assert_eq!(denied(&lbd, "busy"), count(503) as u64);
}

#[test]
fn guesses_from_many_places_leave_others_their_turn() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(folder.path().join("users"), SLOW).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service = "auth = { basic = { users = \"users\" } }\n".to_owned();
    let lbd = Lbd::start_in(folder, &config);
    // More than there is room for, and none of them has more waiting than one client may.
    let guess = |number: u8| {
        let mut client = Client::of(connect_from(beside(ip, 1 + number / 4), lbd.address).unwrap());
        client.send(login(&format!("slow:guess-{number}")));
        client
    };
    let guessing: Vec<Client> = (0..80).map(guess).collect();
    eventually("there is no room left", || denied(&lbd, "busy") > 0);
    assert_eq!(ask(lbd.address, &login("slow:slow")).status(), 200);
    drop(guessing);
}

#[test]
fn whoever_had_a_password_lately_gets_a_turn_however_many_guess() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(folder.path().join("users"), format!("{SLOW}{BOB}")).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service = "auth = { basic = { users = \"users\" } }\n".to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let mut known = Client::new(lbd.address);
    assert_eq!(known.send(login("bob:s3cret")).answer().status(), 200);
    // One guess each, of more clients than there are places: nobody has more waiting than a newcomer would.
    let guess = |number: u8| {
        let mut client = Client::of(connect_from(beside(ip, 1 + number), lbd.address).unwrap());
        client.send(login(&format!("slow:guess-{number}")));
        client
    };
    let guessing: Vec<Client> = (0..80).map(guess).collect();
    eventually("there is no room left", || denied(&lbd, "busy") > 0);
    assert_eq!(known.send(login("slow:slow")).answer().status(), 200);
    drop(guessing);
}

#[test]
fn comparing_a_password_is_no_time_of_connecting() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    // Two people with one password, for each of whom it is compared.
    let other = SLOW.replacen("slow", "idle", 1);
    fs::write(folder.path().join("users"), format!("{SLOW}{other}")).unwrap();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\nhttp2 = true\nauth = {{ basic = {{ users = \"users\" }} }}\n",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let url = format!("http://{}/", lbd.address);
    for (protocol, login) in [("--http1.1", "slow:slow"), ("--http2-prior-knowledge", "idle:slow")] {
        assert_eq!(curl(&[protocol, "-u", login, &url]), "inside");
    }
    for record in records(&path, 2) {
        let micros = |name: &str| record[name].as_u64().unwrap();
        // Most of it is the comparison.
        let told = micros("header_us") + micros("connect_us") + micros("first_byte_us");
        assert!(told < micros("total_us") / 2, "{record}");
    }
}

/// What openssl makes of some input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A pair of keys of some kind in a folder: the private key's file; the public one is beside it.
fn pair(folder: &Path, kind: &str, options: &[&str]) -> String {
    let private = folder.join(format!("{kind}.key")).display().to_string();
    let algorithm = match kind {
        "rsa" => "RSA",
        "ec" => "EC",
        _ => "ED25519",
    };
    openssl(&[&["genpkey", "-algorithm", algorithm, "-out", &private][..], options].concat(), b"");
    let public = folder.join(format!("{kind}.pem")).display().to_string();
    openssl(&["pkey", "-in", &private, "-pubout", "-out", &public], b"");
    private
}

fn unsigned(algorithm: &str, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(&json!({ "alg": algorithm, "typ": "JWT" })), part(claims))
}

fn signed(text: &str, signature: &[u8]) -> String {
    format!("{text}.{}", BASE64URL_NOPAD.encode(signature))
}

/// `SEQUENCE { INTEGER r, INTEGER s }` as the 64 bytes that tokens have.
fn fixed(der: &[u8]) -> Vec<u8> {
    let integer = |at: usize| {
        assert_eq!(der[at], 2);
        let end = at + 2 + usize::from(der[at + 1]);
        let digits: Vec<u8> = der[at + 2..end].iter().copied().skip_while(|byte| *byte == 0).collect();
        ([vec![0; 32 - digits.len()], digits].concat(), end)
    };
    let (r, end) = integer(2);
    [r, integer(end).0].concat()
}

fn hs256(text: &str, secret: &[u8]) -> String {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let option = format!("hexkey:{hex}");
    signed(
        text,
        &openssl(&["dgst", "-sha256", "-mac", "HMAC", "-macopt", &option, "-binary"], text.as_bytes()),
    )
}

fn bearer(token: &str) -> String {
    with(&format!("X-User: eve\r\nAuthorization: Bearer {token}\r\n"))
}

fn claims() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({ "exp": now + 300, "iss": "https://login.example", "aud": "shop", "sub": "ada", "roles": ["r", "w"] })
}

#[test]
fn signed_tokens_let_in() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    let rsa = pair(folder.path(), "rsa", &["-pkeyopt", "rsa_keygen_bits:2048"]);
    let ec = pair(folder.path(), "ec", &["-pkeyopt", "ec_paramgen_curve:P-256"]);
    let ed = pair(folder.path(), "ed", &[]);
    let public = |kind: &str| fs::read_to_string(folder.path().join(format!("{kind}.pem"))).unwrap();
    let all = format!("{}{}{}", public("rsa"), public("ec"), public("ed"));
    fs::write(folder.path().join("keys.pem"), &all).unwrap();
    let mut config = config(ip, &[target.address]);
    config.service =
        "auth = { jwt = { keys = \"keys.pem\", issuer = [\"https://login.example\"], audience = [\"shop\"], \
        leeway = \"1s\", claims = { sub = \"X-User\", roles = \"X-Roles\" } } }\n"
            .to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let by_rsa = |text: &str| signed(text, &openssl(&["dgst", "-sha256", "-sign", &rsa], text.as_bytes()));
    let by_ec =
        |text: &str| signed(text, &fixed(&openssl(&["dgst", "-sha256", "-sign", &ec], text.as_bytes())));
    let by_ed = |text: &str| {
        let input = lbd.folder.path().join("text");
        fs::write(&input, text).unwrap();
        let input = input.display().to_string();
        signed(text, &openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", &ed, "-in", &input], b""))
    };
    let good = by_rsa(&unsigned("RS256", &claims()));
    for token in [good.clone(), by_ec(&unsigned("ES256", &claims())), by_ed(&unsigned("EdDSA", &claims()))] {
        assert_eq!(ask(lbd.address, &bearer(&token)).status(), 200, "{token}");
        let seen = target.last();
        assert_eq!((seen.field("x-user"), seen.field("x-roles")), (Some("ada"), Some("r,w")));
    }
    let seen = target.seen().len();
    let challenge = |token: &str| {
        let answer = ask(lbd.address, &bearer(token));
        assert_eq!(answer.status(), 401, "{token}");
        answer.field("www-authenticate").unwrap().to_owned()
    };
    let because = |token: &str, reason: &str| {
        let before = denied(&lbd, reason);
        let expected =
            format!("Bearer realm=\"web\", error=\"invalid_token\", error_description=\"{reason}\"");
        assert_eq!(challenge(token), expected);
        assert_eq!(denied(&lbd, reason), before + 1);
    };
    let nobody = ask(lbd.address, &with(""));
    assert_eq!((nobody.status(), nobody.field("www-authenticate")), (401, Some("Bearer realm=\"web\"")));
    // A public key is no secret, and nothing is signed with nothing.
    because(&hs256(&unsigned("HS256", &claims()), all.as_bytes()), "algorithm");
    because(&hs256(&unsigned("HS256", &claims()), public_der(&lbd).as_slice()), "algorithm");
    for name in ["none", "None", "nOnE"] {
        because(&format!("{}.", unsigned(name, &claims())), "algorithm");
    }
    because(&format!("{}.", unsigned("RS256", &claims())), "signature");
    because(&by_ec(&unsigned("RS256", &claims())), "signature");
    because(&by_rsa(&unsigned("RS512", &claims())), "algorithm");
    let (text, signature) = good.rsplit_once('.').unwrap();
    let other = unsigned("RS256", &json!({ "sub": "root" }));
    because(&format!("{other}.{signature}"), "signature");
    because(&format!("{text}.{signature}A"), "signature");
    because(&format!("{text}.{signature}="), "malformed");
    because(&format!("{good}.x"), "malformed");
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        by_rsa(&unsigned("RS256", &claims))
    };
    because(&changed("exp", json!(1_000_000_000)), "expired");
    because(&changed("exp", json!("9999999999")), "malformed");
    because(&changed("nbf", json!(9_999_999_999_u64)), "not_yet");
    because(&changed("iss", json!("https://login.example.org")), "issuer");
    because(&changed("aud", json!(["shops"])), "audience");
    because(&changed("roles", json!(["r,w"])), "untellable");
    because(&changed("sub", json!({ "name": "ada" })), "untellable");
    assert_eq!(target.seen().len(), seen, "no target has seen one of them");
    // A shared secret, by a set of keys.
    let secret = [7_u8; 32];
    let set = json!({ "keys": [{ "kty": "oct", "kid": "now", "k": BASE64URL_NOPAD.encode(&secret) }] });
    fs::write(lbd.folder.path().join("keys.pem"), set.to_string()).unwrap();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(lbd.address, &bearer(&hs256(&unsigned("HS256", &claims()), &secret))).status(), 200);
    because(&hs256(&unsigned("HS256", &claims()), &[8; 32]), "signature");
    because(&good, "algorithm");
}

fn public_der(lbd: &Lbd) -> Vec<u8> {
    let public = lbd.folder.path().join("rsa.pem").display().to_string();
    openssl(&["pkey", "-pubin", "-in", &public, "-outform", "DER"], b"")
}

#[test]
fn check_tells_which_files_cannot_be_used() {
    let ip = own_ip();
    let folder = Folder::new();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let mut config = config(ip, &["127.0.0.1:1".parse().unwrap()]);
    let rule = |path: &str, auth: &str| {
        format!("[[service.rule]]\nwhen = {{ path = \"{path}\" }}\nforward = \"pool\"\nauth = {{ {auth} }}\n")
    };
    config.service = [
        "error_pages = { 503 = \"none.html\", 502 = \"large.html\" }\n".to_owned(),
        rule("/1", "basic = { users = \"users\" }"),
        rule("/2", "basic = { users = \"nobody\" }"),
        rule("/3", "jwt = { keys = \"private.pem\" }"),
        rule("/4", "jwt = { keys = \"set.json\" }"),
        rule("/5", "jwt = { keys = \"small.pem\" }"),
        rule("/6", "jwt = { keys = \"five.pem\" }"),
    ]
    .concat();
    write("pair.toml", &config.text());
    write("large.html", &"x".repeat(70_000));
    write("users", "ada:{SHA}x\n");
    write(
        "private.pem",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
    );
    write(
        "set.json",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"alg\":\"RSA1\"}]}",
    );
    // Nearly large enough.
    let small = pair(folder.path(), "rsa", &["-pkeyopt", "rsa_keygen_bits:2040"]);
    fs::rename(folder.path().join("rsa.pem"), folder.path().join("small.pem")).unwrap();
    assert!(Path::new(&small).exists());
    let public = |_| {
        pair(folder.path(), "ed", &[]);
        fs::read_to_string(folder.path().join("ed.pem")).unwrap()
    };
    write("five.pem", &(0..5).map(public).collect::<String>());
    let output = command(folder.path(), &["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    for expected in [
        "it cannot be used: the hash in line 1 is none of bcrypt",
        "cannot read it: No such file",
        "it cannot be used: it has no public key in it",
        "it cannot be used: key 1 is for the algorithm \"RSA1\"; known are",
        "it cannot be used: public key 1 cannot be used",
        "it cannot be used: 5 of its keys for EdDSA may have signed one and the same token",
        "service.rule.auth.basic.users: ",
        "service.rule.auth.jwt.keys: ",
        "service.error_pages: ",
        "it is larger than 65536 bytes",
        "8 errors",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
}
