"""A vision-language model of pretrained parts, and the photographs and documents that train and test it."""
