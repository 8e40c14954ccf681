//! The hub against a small server of its own protocol on the loopback address.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::progress::Silent;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves `files` as the repository `owner/tiny`; counts the requests.
fn serve(files: &'static [(&'static str, &'static str)]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let requests = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            requests.fetch_add(1, Ordering::Relaxed);
            answer(stream.unwrap(), files);
        }
    });
    (address, count)
}

fn answer(mut stream: TcpStream, files: &[(&str, &str)]) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
    let request = lines.next().unwrap();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.split(' ').nth(1).unwrap();
    let (status, extra, body) = if path == "/api/models/owner/tiny/revision/main" {
        let siblings: Vec<_> = files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
        ("200 OK", String::new(), format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(",")))
    } else if let Some((name, body)) = files.iter().find(|(name, _)| path == format!("/owner/tiny/resolve/main/{name}"))
    {
        let only_first = headers.iter().any(|h| h.to_lowercase() == "range: bytes=0-0");
        let part = if only_first { &body[..1] } else { body };
        let etag = format!("etag-of-{}", name.replace(['/', '.'], "-"));
        let range = format!("content-range: bytes 0-{}/{}", part.len() - 1, body.len());
        ("206 Partial Content", format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n{range}\r\n"), part.to_string())
    } else {
        ("404 Not Found", String::new(), "no".to_string())
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{extra}content-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
}

#[test]
fn a_model_is_downloaded_once_and_only_what_is_needed() {
    let (endpoint, requests) = serve(&[
        ("README.md", "card"),
        ("config.json", "{}"),
        ("1_Pooling/config.json", "{ }"),
        ("model.safetensors", "weights"),
        ("onnx/model.onnx", "no"),
        ("pytorch_model.bin", "no"),
    ]);
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub { cache: temporary.path().join("hub"), endpoint: Some(endpoint) };
    let folder = hub.snapshot("owner/tiny", &Silent).unwrap();
    assert_eq!(folder, hub.cache.join("models--owner--tiny/snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
    assert_eq!(fs::read_to_string(folder.join("1_Pooling/config.json")).unwrap(), "{ }");
    for left_out in ["README.md", "onnx", "pytorch_model.bin"] {
        assert!(!folder.join(left_out).exists(), "{left_out}");
    }
    let after_first = requests.load(Ordering::Relaxed);
    assert_eq!(hub.snapshot("owner/tiny", &Silent).unwrap(), folder);
    assert_eq!(requests.load(Ordering::Relaxed), after_first);
    let offline = Hub { endpoint: None, ..hub };
    assert_eq!(offline.snapshot("owner/tiny", &Silent).unwrap(), folder);
}

#[test]
fn pickled_weights_are_downloaded_where_there_are_no_others() {
    let (endpoint, requests) = serve(&[
        ("config.json", "{}"),
        ("sentencepiece.bpe.model", "words"),
        ("pytorch_model.bin", "weights"),
        ("2_Dense/pytorch_model.bin", "more"),
        ("sparse_linear.pt", "no"),
        ("onnx/pytorch_model.bin", "no"),
    ]);
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub { cache: temporary.path().join("hub"), endpoint: Some(endpoint) };
    let folder = hub.snapshot("owner/tiny", &Silent).unwrap();
    assert_eq!(fs::read_to_string(folder.join("pytorch_model.bin")).unwrap(), "weights");
    assert_eq!(fs::read_to_string(folder.join("2_Dense/pytorch_model.bin")).unwrap(), "more");
    for left_out in ["sparse_linear.pt", "onnx"] {
        assert!(!folder.join(left_out).exists(), "{left_out}");
    }
    let after_first = requests.load(Ordering::Relaxed);
    assert_eq!(hub.snapshot("owner/tiny", &Silent).unwrap(), folder);
    assert_eq!(requests.load(Ordering::Relaxed), after_first);
}

#[test]
fn safetensors_are_preferred_folder_by_folder() {
    let files = [
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "3_Dense/model.safetensors",
        "3_Dense/pytorch_model.bin",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
    ];
    let names: Vec<_> = needed(files.into_iter()).into_iter().map(|(_, file)| file).collect();
    assert_eq!(
        names,
        [
            "2_Dense/pytorch_model.bin",
            "3_Dense/model.safetensors",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json"
        ]
    );
}

#[test]
fn a_snapshot_without_weights_is_completed() {
    let (endpoint, _) = serve(&[("config.json", "{}"), ("model.safetensors", "weights")]);
    let temporary = tempfile::tempdir().unwrap();
    let repository = temporary.path().join("models--owner--tiny");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let hub = Hub { cache: temporary.path().to_path_buf(), endpoint: Some(endpoint) };
    let folder = hub.snapshot("owner/tiny", &Silent).unwrap();
    assert_eq!(folder, snapshot);
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights");
}

#[test]
fn errors_name_the_model_and_say_what_to_do() {
    let temporary = tempfile::tempdir().unwrap();
    let offline = Hub { cache: temporary.path().to_path_buf(), endpoint: None };
    let error = offline.snapshot("owner/tiny", &Silent).unwrap_err();
    assert!(error.to_string().starts_with("owner/tiny: not in the cache"), "{error}");
    assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE"));

    let (endpoint, _) = serve(&[("config.json", "{}"), ("tf_model.h5", "other")]);
    let online = Hub { cache: temporary.path().to_path_buf(), endpoint: Some(endpoint) };
    let error = online.snapshot("owner/tiny", &Silent).unwrap_err();
    assert!(error.to_string().contains("no `model.safetensors` and no `pytorch_model.bin`"), "{error}");
    let error = online.snapshot("owner/missing", &Silent).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(error.hint().unwrap().contains("by hand"));
}

#[test]
fn a_path_that_is_no_folder_is_not_looked_up_on_the_hub() {
    for path in ["./missing", "/missing/model", "a/b/c", "with space/x", "../x", ".hidden"] {
        let error = resolve(path, &Silent).unwrap_err();
        assert!(error.to_string().contains("no such folder, and not the name"), "{error}");
    }
    let temporary = tempfile::tempdir().unwrap();
    assert_eq!(resolve(temporary.path().to_str().unwrap(), &Silent).unwrap(), temporary.path());
}

#[test]
fn only_files_of_the_model_are_needed() {
    assert_eq!(rank("model.safetensors"), Some(Rank::Weights));
    assert_eq!(rank("model-00001-of-00002.safetensors"), Some(Rank::Part));
    assert_eq!(rank("2_Dense/model.safetensors"), Some(Rank::Part));
    assert_eq!(rank("pytorch_model.bin.index.json"), Some(Rank::Weights));
    assert_eq!(rank("pytorch_model-00001-of-00002.bin"), Some(Rank::Part));
    assert_eq!(rank("sentence_bert_config.json"), Some(Rank::Settings));
    for other in [
        "onnx/model.safetensors",
        "../1_x/config.json",
        "tf_model.h5",
        "training_args.bin",
        "openvino/config.json",
        "onnx/tokenizer.json",
        "1_a/../config.json",
    ] {
        assert_eq!(rank(other), None, "{other}");
    }
}
