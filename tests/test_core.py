def test_measure_size(dataset):
    from curate.measure import measure

    d = measure(dataset, ["size"])
    t = d.joined(d.shards[0])
    print(t.to_pylist()[0], d.history)
    d = measure(d, ["size"], "local(workers=2)")
    assert d.history[-1]["counts"]["skipped"] == 3
