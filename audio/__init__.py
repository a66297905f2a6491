"""Raw waveforms: data, models, metrics, evaluation and listening pages."""
